"""The loss of the DDAE: the error of the prediction, and an adversary that predicts the site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ddae.diffusion import STEPS, Schedule, angles, noised, velocity_of
from ddae.labels import UNKNOWN_SEX
from harmbench.training.scanners import random_scanner

Prediction = Literal["noise", "velocity"]


def to_range(images: Tensor) -> Tensor:
    """Map intensities from [0, 1] to the network's range [-1, 1]."""
    return 2 * images - 1


def from_range(images: Tensor) -> Tensor:
    """Map intensities from the network's range to [0, 1]."""
    return (images + 1) / 2


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, for `harmbench.training.loop.train`.

    A batch contains ``image`` (n, 1, height, width), the labels ``age``, ``sex`` and ``site``, and
    the ``weight`` of every scan, each of shape (n,). `ddae.method.DDAE` describes the attributes.
    """

    prediction: Prediction
    schedule: Schedule
    adversary: float
    scanners: float
    untold: float

    def __call__(
        self, model: Any, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts ``error`` and, with an adversary, ``site``."""
        image = batch["image"]
        times = stratified_times(len(image), generator).to(image.device)
        phi = angles(self.schedule).to(image.device)[times]
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        clean = to_range(image)
        x = noised(clean, noise, phi)
        seen = random_scanner(image, self.scanners, generator) if self.scanners else image
        predicted, logits = model(x, times, to_range(seen), self._labels(batch, generator))
        wanted = noise if self.prediction == "noise" else velocity_of(clean, noise, phi)
        errors = (predicted.float() - wanted).square().mean(dim=(1, 2, 3))
        error = (batch["weight"] * errors).mean()
        if logits is None:
            return error, {"error": error}
        site = F.cross_entropy(logits.float(), batch["site"])
        return error + self.adversary * site, {"error": error, "site": site}

    def _labels(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the labels, with age and sex hidden for a random share of the images."""
        labels = {name: batch[name] for name in ("age", "sex", "site")}
        if self.untold:
            draw = torch.rand(len(batch["age"]), generator=generator, device=generator.device)
            hidden = draw < self.untold
            labels["age"] = labels["age"].masked_fill(hidden, torch.nan)
            labels["sex"] = labels["sex"].masked_fill(hidden, UNKNOWN_SEX)
        return labels


def stratified_times(n: int, generator: torch.Generator) -> Tensor:
    """Return a time for each image, evenly spaced over 1 to `STEPS` from a random start.

    The loss of a small batch would be much noisier with independent times.
    """
    device = generator.device
    start = torch.rand((), generator=generator, device=device)
    order = torch.randperm(n, generator=generator, device=device)
    return ((start + order / n) % 1 * STEPS).long() + 1
