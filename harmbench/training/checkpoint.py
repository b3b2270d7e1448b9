"""The state of a training on disk, as one safetensors file, and the curve of its loss."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from harmbench.errors import HarmbenchError
from harmbench.files.atomic import write_atomic
from harmbench.training.cards import CURVE_POINTS
from harmbench.training.layers import for_inference

Array = TypeVar("Array", Tensor, NDArray)
Network = TypeVar("Network", bound=nn.Module)
Parsed = TypeVar("Parsed")

FILE = "checkpoint.safetensors"


class Curve:
    """Means of a loss and its parts over about `CURVE_POINTS` intervals of a training.

    Parameters
    ----------
    steps : int
        Number of steps of the training.
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
        """Add the parts of a step's loss; return whether all means of a new point are finite."""
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().float()
        self.count += 1
        if step % self.every and step != self.length:
            return True
        self.steps.append(step)
        for name, total in self.sums.items():
            self.points.setdefault(name, []).append(float(total) / self.count)
        self.sums, self.count = {}, 0
        last = {name: values[-1] for name, values in self.points.items()}
        loss = sum(v for name, v in last.items() if name == "loss" or name.endswith(".loss"))
        self.note = f"loss {loss:.4f}"
        return all(np.isfinite(value) for value in last.values())

    def arrays(self, batch_size: int) -> dict[str, NDArray]:
        """Return ``"images"`` and the mean of every part at these numbers of images."""
        images = np.array(self.steps, dtype=np.int64) * batch_size
        return {"images": images} | {name: np.array(p) for name, p in self.points.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the curve as tensors, for `restore`."""
        points = {name: torch.tensor(p, dtype=torch.float64) for name, p in self.points.items()}
        counts = {"steps": self.steps, "count": self.count}
        counted = {name: torch.tensor(n, dtype=torch.int64) for name, n in counts.items()}
        return counted | add_prefix("points", points) | add_prefix("sums", self.sums)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.steps = state["steps"].tolist()
        self.count = int(state["count"])
        self.points = {name: p.tolist() for name, p in strip_prefix("points", state).items()}
        self.sums = strip_prefix("sums", state)


class Checkpoint:
    """The file in which a training saves its state.

    Parameters
    ----------
    folder : Path
        Created if it is missing.
    identity : str
        Identifies the training. The state of another training is refused.
    minutes : float
        Time between two saved states.
    """

    def __init__(self, folder: Path, identity: str, minutes: float) -> None:
        self.path = Path(folder) / FILE
        self.identity = identity
        self.seconds = 60 * minutes
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time to save the state again."""
        return time.monotonic() - self.saved_at >= self.seconds

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace the saved state."""
        about = json.dumps({"identity": self.identity, "step": step})
        save_tensors(self.path, tensors, {"about": about})
        self.saved_at = time.monotonic()

    def load(self) -> tuple[int, dict[str, Tensor]]:
        """Return the saved step and tensors, or step 0 and no tensors.

        Raises
        ------
        HarmbenchError
            If the file is damaged or belongs to another training.
        """
        if not self.path.exists():
            return 0, {}

        def parse(metadata: dict[str, str]) -> tuple[str, int]:
            about = json.loads(metadata["about"])
            return str(about["identity"]), int(about["step"])

        (identity, step), tensors = load_tensors(self.path, parse)
        if identity != self.identity:
            raise HarmbenchError(
                f"{self.path} holds the state of a training with another budget, seed or network; "
                "delete it, or give this training a folder of its own"
            )
        return step, tensors


def training_state(
    models: Mapping[str, nn.Module], optimizers: Sequence[Optimizer], curve: Curve
) -> dict[str, Tensor]:
    """Return all tensors on which the next step of a training depends."""
    tensors = add_prefix("curve", curve.state())
    for name, model in models.items():
        tensors |= add_prefix(name, model.state_dict())
    for i, optimizer in enumerate(optimizers):
        for parameter, values in optimizer.state_dict()["state"].items():
            tensors |= add_prefix(f"optimizer.{i}.{parameter}", values)
    return tensors


def restore_training(
    tensors: Mapping[str, Tensor],
    models: Mapping[str, nn.Module],
    optimizers: Sequence[Optimizer],
    curve: Curve,
) -> None:
    """Set the objects of a training to what `training_state` returned."""
    curve.restore(strip_prefix("curve", tensors))
    for name, model in models.items():
        model.load_state_dict(strip_prefix(name, tensors))
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in strip_prefix(f"optimizer.{i}", tensors).items():
            parameter, _, key = name.partition(".")
            state.setdefault(int(parameter), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and text to a safetensors file, atomically."""
    # Copies, because safetensors refuses tensors that share memory or are not contiguous.
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    write_atomic(path, lambda temporary: save_file(copies, temporary, metadata=metadata))


def load_tensors(
    path: Path, parse: Callable[[dict[str, str]], Parsed]
) -> tuple[Parsed, dict[str, Tensor]]:
    """Read what `save_tensors` wrote.

    Parameters
    ----------
    path : Path
    parse : callable
        Reads the metadata.

    Raises
    ------
    HarmbenchError
        If the file or its metadata is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return parse(file.metadata() or {}), tensors
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise HarmbenchError(
            f"{path} is damaged ({error}); delete it to train from the start"
        ) from error


def add_prefix(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors with ``prefix.`` before their names."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def strip_prefix(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors whose names begin with ``prefix.``, under the rest of their names."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def weight_arrays(prefix: str, network: nn.Module) -> dict[str, NDArray]:
    """Return the weights of a network as arrays whose names begin with ``prefix.``."""
    return add_prefix(prefix, {k: v.cpu().numpy() for k, v in network.state_dict().items()})


def with_weights(network: Network, prefix: str, arrays: Mapping[str, NDArray]) -> Network:
    """Return a network with the weights that `weight_arrays` returned, ready for inference."""
    weights = {name: torch.from_numpy(a) for name, a in strip_prefix(prefix, arrays).items()}
    network.load_state_dict(weights)
    return for_inference(network)
