"""Which weights of a training are kept: those with the lowest error on subjects left out of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from harmbench.files.atomic import write_atomic
from harmbench.seeding import seed_from

FILE = "best.safetensors"
DRAWS = 4
"""Draws of times and noise for every image; always the same ones, so that errors compare."""

Error = Callable[[nn.Module, dict[str, Tensor], torch.Generator], tuple[Tensor, dict[str, Tensor]]]


class BestOnValidation:
    """Looks at a training from time to time and keeps its best weights.

    A diffusion model of some hundred images learns them by heart: its error on other subjects
    rises again long before the loss stops falling.

    Parameters
    ----------
    objective : callable
        As in training; its part ``"error"`` decides.
    data : dict of Tensor
        The rows left out, as one batch.
    folder : Path or None
        Where the best weights survive an interruption.
    """

    def __init__(self, objective: Error, data: dict[str, Tensor], folder: Path | None) -> None:
        self.objective, self.data = objective, data
        self.path = None if folder is None else Path(folder) / FILE
        self.errors: dict[int, float] = {}
        self.weights: dict[str, Tensor] = {}
        if self.path is not None and self.path.is_file():
            self._restore(self.path)

    @torch.no_grad()
    def __call__(self, model: nn.Module, images: int) -> None:
        """Measure the error after so many images; see `harmbench.training.loop.train`."""
        device = next(model.parameters()).device
        batch = {name: values.to(device) for name, values in self.data.items()}
        found = []
        for draw in range(DRAWS):
            generator = torch.Generator(device).manual_seed(seed_from("validation", draw))
            found.append(float(self.objective(model, batch, generator)[1]["error"]))
        error = float(np.mean(found))
        best = min(self.errors.values(), default=float("inf"))
        self.errors[images] = error
        if error < best:
            # safetensors refuses tensors that are not contiguous.
            self.weights = {
                name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in model.state_dict().items()
            }
        if self.path is not None:
            self._keep(self.path)

    def take(self, model: nn.Module) -> None:
        """Put the best weights into a model."""
        if self.weights:
            model.load_state_dict(self.weights)

    def curve(self, images: NDArray) -> NDArray[np.float64]:
        """Return the error last measured at each of these numbers of images, NaN before."""
        at = sorted(self.errors)
        index = np.searchsorted(at, images, side="right")
        return np.array([self.errors[at[i - 1]] if i else np.nan for i in index])

    def _keep(self, path: Path) -> None:
        about = {"errors": json.dumps(self.errors)}
        write_atomic(path, lambda written: save_file(self.weights, written, metadata=about))

    def _restore(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            errors = json.loads((file.metadata() or {})["errors"])
            self.weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.errors = {int(images): error for images, error in errors.items()}
