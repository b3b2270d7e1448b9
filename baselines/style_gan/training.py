"""The training of the style-encoding GAN: its batches, its phases and its check for collapse."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.style_gan.losses import (
    Batch,
    Weights,
    critic_loss,
    latent_loss,
    reference_loss,
)
from baselines.style_gan.networks import Networks, Sizes
from harmbench.contracts.cohort import Cohort
from harmbench.seeding import seed_from
from harmbench.training.loop import Diverged, Phase, rows_at

ROWS_AT_ONCE = 64
"""Images that the networks process together outside of training."""
COLLAPSED = 0.02
"""Smallest share of the variance between images that renderings must keep."""


class Scans:
    """A cohort of slices as tensors.

    Attributes
    ----------
    images : Tensor, shape (n, 1, h, w)
        Intensities in [-1, 1], padded below and to the right with background.
    mask : Tensor of bool, shape (n, 1, h, w)
        Foreground of each scan.
    """

    def __init__(self, cohort: Cohort, sizes: Sizes) -> None:
        height, width = cohort.shape
        padding = (0, -width % sizes.multiple, 0, -height % sizes.multiple)
        images = torch.from_numpy(2 * cohort.images - 1).unsqueeze(1)
        mask = torch.from_numpy(cohort.mask.copy()).unsqueeze(1)
        self.images, self.mask = F.pad(images, padding, value=-1.0), F.pad(mask, padding)

    def pieces(self, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and masks, `ROWS_AT_ONCE` at a time."""
        pairs = (self.images.split(ROWS_AT_ONCE), self.mask.split(ROWS_AT_ONCE))
        for images, mask in zip(*pairs, strict=True):
            yield images.to(device), mask.to(device)


@dataclass(frozen=True)
class Batches:
    """The batch of each step, as a pure function of the step.

    It has `size` images and as many references for each of the two renderings. The weight of the
    diversity decreases linearly to 0 over the `steps` of the training.
    """

    scans: Scans
    size: int
    seed: int
    steps: int
    diversity: float

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        orders = [self.seed, seed_from("first", self.seed), seed_from("second", self.seed)]
        images, mask = self.scans.images, self.scans.mask
        rows, first, second = [rows_at(step, len(images), self.size, order) for order in orders]
        references = torch.stack([images[first], images[second]])
        left = 1 - step / self.steps
        return Batch(images[rows], mask[rows], references, self.diversity * left)


def phases(model: Networks, weights: Weights, mapping_lr: float) -> list[Phase]:
    """Return the phases of the training: which loss trains which networks.

    The style encoder and the mapping network learn from random styles only, as published. The
    mapping network has its own learning rate.
    """
    generator = list(model.generator.parameters())
    all_three: list[dict[str, Any]] = [
        {"params": generator},
        {"params": list(model.style.parameters())},
        {"params": list(model.mapping.parameters()), "lr": mapping_lr},
    ]
    critic = list(model.discriminator.parameters())
    return [
        Phase(partial(critic_loss, weights=weights), [{"params": critic}], "critic"),
        Phase(partial(latent_loss, weights=weights), all_three, "latent"),
        Phase(partial(reference_loss, weights=weights), [{"params": generator}], "reference"),
    ]


@torch.no_grad()
def watch(model: Networks, seen: int, scans: Scans, log: logging.Logger) -> None:
    """Log how well scans are rendered in their own styles.

    Parameters
    ----------
    model : Networks
        In evaluation mode.
    seen : int
        Number of images in the training so far.
    scans : Scans
        Scans to render. They do not influence the training.
    log : Logger
        Gets one line.

    Raises
    ------
    Diverged
        If the renderings differ from each other much less than the scans do.
    """
    device = next(model.parameters()).device
    own = [model.render(x, model.style(x), mask).cpu() for x, mask in scans.pieces(device)]
    rendered, images, mask = torch.cat(own), scans.images, scans.mask
    error = (rendered - images).abs()[mask].mean() / 2
    outside = (rendered.abs() > 1)[mask].float().mean()
    kept = _variance(rendered, mask) / _variance(images, mask).clamp(min=1e-12)
    text = "after %d images: own-style error %.4f, out of range %.2f %%, variance kept %.2f"
    log.info(text, seen, error, 100 * outside, kept)
    if len(images) > 1 and not kept >= COLLAPSED:
        raise Diverged(
            f"the GAN's renderings keep {kept:.1%} of the variance between scans after {seen} "
            "images: it has collapsed; lower `lr` or raise `cycle`"
        )


def _variance(images: Tensor, mask: Tensor) -> Tensor:
    """Return the variance between scans, averaged over the pixels that are in every mask."""
    common = mask.all(dim=0)
    if not common.any():
        common = mask.any(dim=0)
    return images.var(dim=0)[common].mean()
