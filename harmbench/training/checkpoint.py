"""The state of a training on disk: one safetensors file, replaced atomically; its loss curve."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harmbench.errors import HarmbenchError
from harmbench.files.atomic import write_atomic

Array = TypeVar("Array", Tensor, NDArray)

FILE = "checkpoint.safetensors"
CURVE_POINTS = 100


class Curve:
    """Means of a loss and its parts over about `CURVE_POINTS` stretches of a training.

    Parameters
    ----------
    steps : int
        Length of the training.
    """

    def __init__(self, steps: int) -> None:
        self.length = steps
        self.every = max(1, steps // CURVE_POINTS)
        self.count = 0
        self.steps: list[int] = []
        self.points: dict[str, list[float]] = {}
        self.sums: dict[str, Tensor] = {}
        self.note = ""

    def add(self, step: int, parts: Mapping[str, Tensor]) -> bool:
        """Count the parts of a step's loss; True where a stretch ends with it."""
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().float()
        self.count += 1
        if step % self.every and step != self.length:
            return False
        self.steps.append(step)
        for name, total in self.sums.items():
            self.points.setdefault(name, []).append(float(total) / self.count)
        self.sums, self.count = {}, 0
        self.note = f"loss {sum(p[-1] for k, p in self.points.items() if _is_loss(k)):.4f}"
        return True

    def finite(self) -> bool:
        """Whether the last point, and so every step of its stretch, is a finite number."""
        return all(np.isfinite(values[-1]) for values in self.points.values())

    def arrays(self, batch_size: int) -> dict[str, NDArray]:
        """Return ``"images"`` and the mean of every part at that many images."""
        images = np.array(self.steps, dtype=np.int64) * batch_size
        return {"images": images} | {name: np.array(p) for name, p in self.points.items()}

    def state(self) -> dict[str, Tensor]:
        """Return all of it as tensors."""
        points = {
            f"points.{k}": torch.tensor(v, dtype=torch.float64) for k, v in self.points.items()
        }
        sums = {f"sums.{k}": v for k, v in self.sums.items()}
        counts = {"steps": self.steps, "count": self.count}
        return {k: torch.tensor(v, dtype=torch.int64) for k, v in counts.items()} | points | sums

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.steps = state["steps"].tolist()
        self.count = int(state["count"])
        self.points = {k: v.tolist() for k, v in below("points", state).items()}
        self.sums = below("sums", state)


class Checkpoint:
    """Where a training keeps its state.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    identity : str
        Names the training; the state of another one is refused.
    minutes : float
        Time between two saved states.
    """

    def __init__(self, folder: Path, identity: str, minutes: float) -> None:
        self.path = Path(folder) / FILE
        self.identity = identity
        self.seconds = 60 * minutes
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether the last saved state is old."""
        return time.monotonic() - self.saved_at >= self.seconds

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace the saved state."""
        # A copy of each: safetensors refuses tensors that share memory or are not contiguous.
        copies = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }
        about = {"about": json.dumps({"identity": self.identity, "step": step})}
        write_atomic(self.path, lambda path: save_file(copies, path, metadata=about))
        self.saved_at = time.monotonic()

    def load(self) -> tuple[int, dict[str, Tensor]]:
        """Return the saved step and tensors, or step 0 and none.

        Raises
        ------
        HarmbenchError
            Where the file is damaged or belongs to another training.
        """
        if not self.path.exists():
            return 0, {}
        try:
            with safe_open(self.path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["about"])
                identity, step = str(about["identity"]), int(about["step"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise HarmbenchError(
                f"{self.path} is damaged ({error}); delete it to train from the start"
            ) from error
        if identity != self.identity:
            raise HarmbenchError(
                f"{self.path} holds the state of a training with another budget, seed or network; "
                "delete it, or give this training a folder of its own"
            )
        return step, tensors


def below(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors whose names begin with ``prefix.``, without it."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def under(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the same tensors with ``prefix.`` before their names."""
    return {f"{prefix}.{k}": v for k, v in tensors.items()}


def _is_loss(name: str) -> bool:
    return name == "loss" or name.endswith(".loss")
