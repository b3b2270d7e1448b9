"""The training of the style-encoding GAN: whose turn it is, with which batch, and when to stop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.style_gan.losses import (
    Batch,
    Loss,
    Weights,
    critic_loss,
    latent_loss,
    reference_loss,
)
from baselines.style_gan.networks import Networks, Sizes
from harmbench.contracts.cohort import Cohort
from harmbench.errors import HarmbenchError
from harmbench.seeding import seed_from
from harmbench.training.loop import Diverged, Phase, rows_at

ROWS_AT_ONCE = 64
"""Images that pass through the networks together outside of training."""
COLLAPSED = 0.02
"""Least share of the variance between images that renderings must keep."""


class Scans:
    """A cohort as the networks take it.

    Parameters
    ----------
    cohort : Cohort
        Slices.
    sizes : Sizes
        Of the networks.

    Attributes
    ----------
    images : Tensor, shape (n, 1, h, w)
        In [-1, 1], padded below and to the right with what is 0 in the cohort.
    mask : Tensor of bool, shape (n, 1, h, w)
        Each scan's own foreground.
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
    """The batch of every step: a pure function of the step.

    Attributes
    ----------
    scans : Scans
        All rows to train on.
    size : int
        Images in a batch; as many references for each of the two renderings.
    seed : int
        Of the three orders.
    steps : int
        Length of the training, over which the diversity's weight falls linearly to 0.
    diversity : float
        Its weight in the first step.
    """

    scans: Scans
    size: int
    seed: int
    steps: int
    diversity: float

    def __call__(self, step: int) -> Batch:
        """Return the batch of one step."""
        orders = [self.seed, seed_from("first", self.seed), seed_from("second", self.seed)]
        images, mask = self.scans.images, self.scans.mask
        rows, first, second = [rows_at(step, len(images), self.size, order) for order in orders]
        references = torch.stack([images[first], images[second]])
        left = 1 - step / self.steps
        return Batch(images[rows], mask[rows], references, self.diversity * left)


def phases(model: Networks, weights: Weights, mapping_lr: float) -> list[Phase]:
    """Return who is moved by which loss, in turn.

    A reference's style is taken as it is, so style encoder and mapping network learn from random
    styles only, as published.

    Parameters
    ----------
    model : Networks
        The four networks.
    weights : Weights
        Of the losses.
    mapping_lr : float
        The mapping network's own learning rate.
    """

    def phase(name: str, loss: Loss, *modules: nn.Module) -> Phase:
        groups: list[dict[str, Any]] = [{"params": list(part.parameters())} for part in modules]
        for group, part in zip(groups, modules, strict=True):
            if part is model.mapping:
                group["lr"] = mapping_lr
        return Phase(partial(loss, weights=weights), groups, name)

    return [
        phase("critic", critic_loss, model.discriminator),
        phase("latent", latent_loss, model.generator, model.style, model.mapping),
        phase("reference", reference_loss, model.generator),
    ]


@torch.no_grad()
def watch(model: nn.Module, seen: int, scans: Scans, log: logging.Logger) -> None:
    """Log how scans are rendered in their own styles; stop a training that has collapsed.

    Parameters
    ----------
    model : Networks
        In evaluation mode.
    seen : int
        Images trained on.
    scans : Scans
        The validation's; nothing is chosen by them.
    log : Logger
        Gets one line.

    Raises
    ------
    Diverged
        Where renderings differ from each other much less than the scans do.
    """
    assert isinstance(model, Networks)
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
    """Return the variance between scans, averaged over the pixels that lie in every mask."""
    common = mask.all(dim=0)
    if not common.any():
        common = mask.any(dim=0)
    return images.var(dim=0)[common].mean()


def require_at_least(name: str, value: int, least: int) -> None:
    """Raise the error of an argument that is too small."""
    if value < least:
        raise HarmbenchError(f"gan: {name} is {value}; give {least} or more")
