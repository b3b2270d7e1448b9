"""The processes that train one model together: who is who, shares of a batch, means of gradients.

Gradients are averaged explicitly, once a phase. (A wrapper such as torch's
``DistributedDataParallel`` averages in the backward pass of what went through its ``forward``: an
adversarial training calls parts of its model, in turns, and differentiates twice.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from harmbench.errors import HarmbenchError


@dataclass(frozen=True)
class Group:
    """The processes that train together, as one of them sees them; alone, nothing is exchanged.

    Attributes
    ----------
    rank, size : int
        Which of how many.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Group:
        """Return the group of this process: torch's, where one was joined."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the process that observes, saves and shows progress."""
        return self.rank == 0

    @property
    def stream(self) -> tuple[int, ...]:
        """What to add to a seed, so that no two processes draw the same numbers."""
        return (self.rank,) if self.size > 1 else ()

    def require_shares(self, batch_size: int) -> None:
        """Refuse a batch that cannot be shared equally: its mean is the mean of the shares'."""
        if batch_size % self.size:
            raise HarmbenchError(
                f"a batch of {batch_size} cannot be shared equally by {self.size} processes; "
                "choose a number of processes (--devices) that divides it, or another batch_size"
            )

    def share(self, batch: Any) -> Any:
        """Return this process's rows of a batch, every `size`-th one.

        Parameters
        ----------
        batch : object
            With a method ``only(rows: slice)``, which is called, or tensors anywhere inside it,
            whose first axis is the batch's.
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
        """Replace gradients by their means over the processes; return the means of scalars.

        A parameter without a gradient counts as one with gradient 0, since it may have one in
        another process.
        """
        if self.size == 1:
            return dict(parts)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters]
        values = [value.detach().float().reshape(()) for value in parts.values()]
        tensors = [tensor for tensor in (*gradients, *values) if tensor is not None]
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))
        return dict(zip(parts, values, strict=True))

    def copy(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors, in place, by the first process's."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up in any of the processes."""
        return bool(self._most(int(flag))) if self.size > 1 else flag

    def require_same(self, number: int, message: str) -> None:
        """Raise an error with this message where processes hold different numbers."""
        if self.size > 1 and self._most(number) != -self._most(-number):
            raise HarmbenchError(message)

    def _most(self, number: int) -> int:
        # On the processor, so that no GPU waits for it.
        tensor = torch.tensor([number])
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return int(tensor)


def from_outside() -> int:
    """Return how many processes ``torchrun`` has started with this one; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def is_first() -> bool:
    """Whether this process is the only one, or the first that ``torchrun`` has started."""
    return from_outside() == 1 or os.environ["RANK"] == "0"
