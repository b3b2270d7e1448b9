"""Selection of the weights with the lowest error on subjects that are not trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harmbench.seeding import seed_from
from harmbench.training.checkpoint import load_tensors, save_tensors

FILE = "best.safetensors"
DRAWS = 4
"""Random times and noises per image. They are the same each time, so that errors are comparable."""

Error = Callable[[Any, dict[str, Tensor], torch.Generator], tuple[Tensor, dict[str, Tensor]]]


class BestOnValidation:
    """Evaluates a model several times during its training and keeps the best weights.

    A diffusion model of some hundred images memorizes them: its error on other subjects increases
    long before the loss stops decreasing.

    Parameters
    ----------
    objective : callable
        The objective of the training; the part ``"error"`` is compared.
    data : dict of Tensor
        The validation rows as one batch.
    folder : Path or None
        Where the best weights are saved, for a training that is interrupted.
    """

    def __init__(self, objective: Error, data: dict[str, Tensor], folder: Path | None) -> None:
        self.objective, self.data = objective, data
        self.path = None if folder is None else Path(folder) / FILE
        self.errors: dict[int, float] = {}
        self.weights: dict[str, Tensor] = {}
        if self.path is not None and self.path.is_file():
            self.errors, self.weights = load_tensors(self.path, _errors)

    @torch.no_grad()
    def __call__(self, model: nn.Module, images: int) -> None:
        """Measure the error after a number of images; see `harmbench.training.loop.train`."""
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
            self.weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        if self.path is not None:
            save_tensors(self.path, self.weights, {"errors": json.dumps(self.errors)})

    def restore_best(self, model: nn.Module) -> None:
        """Load the best weights into a model."""
        if self.weights:
            model.load_state_dict(self.weights)

    def curve(self, images: NDArray) -> NDArray[np.float64]:
        """Return the last measured error at each of these numbers of images, NaN before."""
        at = sorted(self.errors)
        index = np.searchsorted(at, images, side="right")
        return np.array([self.errors[at[i - 1]] if i else np.nan for i in index])


def _errors(metadata: dict[str, str]) -> dict[int, float]:
    return {int(images): error for images, error in json.loads(metadata["errors"]).items()}
