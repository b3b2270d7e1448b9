"""The processes that train one model together: their ranks, shares of a batch, mean gradients.

Gradients are averaged explicitly, once per phase. A wrapper such as torch's
``DistributedDataParallel`` averages during the backward pass of its own ``forward``. An adversarial
training calls parts of its model in turn and differentiates twice, so it cannot use such a wrapper.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Group:
    """Rank of this process and number of processes. A single process exchanges nothing."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Group:
        """Return the group of this process: torch's process group, if there is one."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the process that observes, saves and shows progress."""
        return self.rank == 0

    def share(self, batch: Any) -> Any:
        """Return the rows of a batch that this process trains on: every `size`-th one.

        The batch has a method ``only(rows: slice)``, or contains tensors whose first axis is that
        of the batch.
        """
        if self.size == 1:
            return batch
        from lightning_utilities.core.apply_func import apply_to_collection

        rows = slice(self.rank, None, self.size)
        if callable(getattr(batch, "only", None)):
            return batch.only(rows)
        return apply_to_collection(batch, Tensor, lambda t: t[rows] if t.ndim else t)

    def averaged(
        self, parameters: Sequence[nn.Parameter], parts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Replace gradients by their means over the processes; return the means of scalars."""
        if self.size == 1:
            return dict(parts)
        tensors = []
        for parameter in parameters:
            # A missing gradient counts as 0, since another process may have one.
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = gradient
            tensors.append(gradient)
        values = [value.detach().float().reshape(()) for value in parts.values()]
        tensors += values
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))
        return dict(zip(parts, values, strict=True))

    def copy(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors in place by those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def largest(self, number: int) -> int:
        """Return the largest of the numbers that the processes give."""
        if self.size == 1:
            return number
        tensor = torch.tensor([int(number)])  # on the CPU, so that no GPU has to wait
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return int(tensor)


def torchrun_size() -> int:
    """Return the number of processes that ``torchrun`` has started, 1 without ``torchrun``."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def is_first() -> bool:
    """Return whether this is the only process, or the first one of ``torchrun``."""
    return torchrun_size() == 1 or os.environ["RANK"] == "0"
