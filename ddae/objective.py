"""What the DDAE minimizes: the error of the predicted noise; what keeps site out of the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddae.diffusion import STEPS, Schedule, angles, noised, velocity_of
from ddae.labels import NOT_TOLD
from harmbench.training.scanners import random_scanner

Prediction = Literal["noise", "velocity"]


def to_range(images: Tensor) -> Tensor:
    """Map intensities of 0 to 1 to the network's -1 to 1."""
    return 2 * images - 1


def from_range(images: Tensor) -> Tensor:
    """Turn round `to_range`."""
    return (images + 1) / 2


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, for `harmbench.training.loop.train`.

    See `ddae.method.DDAE` for the options.

    A batch holds ``image`` (n, 1, height, width), the labels ``age``, ``sex``, ``site`` and the
    ``weight`` of every scan, shape (n,).
    """

    prediction: Prediction
    schedule: Schedule
    adversary: float
    scanners: float
    untold: float

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts ``error`` and, with an adversary, ``site``."""
        image = batch["image"]
        times = stratified_times(len(image), generator).to(image.device)
        phi = angles(self.schedule).to(image.device)[times]
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        clean = to_range(image)
        x = noised(clean, noise, phi)
        seen = random_scanner(image, self.scanners, generator) if self.scanners else image
        predicted, logits = model(x, times, to_range(seen), self._told(batch, generator))
        wanted = noise if self.prediction == "noise" else velocity_of(clean, noise, phi)
        errors = (predicted.float() - wanted).square().mean(dim=(1, 2, 3))
        error = (batch["weight"] * errors).mean()
        if logits is None:
            return error, {"error": error}
        site = F.cross_entropy(logits.float(), batch["site"])
        return error + self.adversary * site, {"error": error, "site": site}

    def _told(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the labels, age and sex replaced by nothing in a share of the images."""
        labels = {name: batch[name] for name in ("age", "sex", "site")}
        if self.untold:
            draw = torch.rand(len(batch["age"]), generator=generator, device=generator.device)
            hidden = draw < self.untold
            labels["age"] = labels["age"].masked_fill(hidden, torch.nan)
            labels["sex"] = labels["sex"].masked_fill(hidden, NOT_TOLD)
        return labels


def stratified_times(n: int, generator: torch.Generator) -> Tensor:
    """Return one time an image, evenly spread over 1 to `STEPS` from a random start, shape (n,).

    Independent times would make the loss of a small batch far noisier.
    """
    device = generator.device
    start = torch.rand((), generator=generator, device=device)
    order = torch.randperm(n, generator=generator, device=device)
    return ((start + order / n) % 1 * STEPS).long() + 1
