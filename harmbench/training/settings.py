"""Length and optimizer of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harmbench.training.precision import Precision


@dataclass(frozen=True)
class TrainConfig:
    """Length and optimizer of a training.

    Attributes
    ----------
    images : int
        Length of the training in images, rounded up to whole batches.
    batch_size : int
        Images per batch.
    lr, weight_decay, betas : float, float, (float, float)
        Settings of AdamW. The parameter groups of a phase may override them.
    schedule : {"constant", "cosine", "linear"}
        How the learning rate decreases to zero.
    warmup : int
        Number of images over which the learning rate rises from zero.
    ema : float
        Decay per step of the averaged weights (lower in the first steps); 0 for no average.
    clip : float
        Largest norm of the gradient of a phase; 0 for no limit.
    precision : str
        Precision of Fabric, such as ``"32-true"`` or ``"bf16-mixed"``, or ``"auto"``, see
        `harmbench.training.precision`.
    checkpoint_minutes : float
        Time between two saved states.
    """

    images: int
    batch_size: int
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: int = 0
    ema: float = 0.0
    clip: float = 0.0
    precision: Precision = "32-true"
    checkpoint_minutes: float = 5.0

    @property
    def steps(self) -> int:
        """Number of batches."""
        return math.ceil(self.images / self.batch_size)

    def rate(self, step: int) -> float:
        """Return the factor by which the learning rate is multiplied in a step."""
        done = step / self.steps
        fall = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done}
        return min(1.0, (step + 1) * self.batch_size / max(self.warmup, 1)) * fall[self.schedule]
