"""Losses of the style-encoding GAN: functions of the networks and a batch.

Choi 2020 (arXiv 1912.01865), equations 1 to 6, with one domain; weights as in Liu 2021
(10.1007/978-3-030-87199-4_30). Images are in [-1, 1]. Each loss returns the number to minimize and
its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.style_gan.networks import LATENT, Networks
from harmbench.training.scanners import random_scanner

Parts = tuple[Tensor, dict[str, Tensor]]


class Batch(NamedTuple):
    """The data of one training step.

    Attributes
    ----------
    images : Tensor, shape (n, 1, h, w)
        Scans to render in other styles.
    mask : Tensor of bool, shape (n, 1, h, w)
        Foreground of the scans.
    references : Tensor, shape (2, n, 1, h, w)
        Two sets of scans whose styles are used.
    diversity : float
        Weight of the diversity loss. It depends on the step, so it is part of the batch.
    """

    images: Tensor
    mask: Tensor
    references: Tensor
    diversity: float

    def only(self, rows: slice) -> Batch:
        """Return some rows of the batch."""
        return Batch(self.images[rows], self.mask[rows], self.references[:, rows], self.diversity)


@dataclass(frozen=True)
class Weights:
    """Weights of the losses; the adversarial loss has weight 1.

    `style` and `cycle` are the weights of the mean absolute errors of the style and of the image,
    `own` that of the image rendered in its own style, seen through a simulated scanner of strength
    `scanners` (not published), `r1` that of half the mean squared norm of the critic's gradient.
    """

    style: float
    cycle: float
    own: float
    scanners: float
    r1: float


def critic_loss(
    model: Networks, batch: Batch, generator: torch.Generator, weights: Weights
) -> Parts:
    """Return the discriminator's non-saturating loss with R1 (Mescheder 2018).

    The first half of the batch is rendered in random styles, the second in styles of references.
    """
    half = len(batch.images) // 2
    with torch.no_grad():
        random = model.mapping(_latents(batch.images[:half], generator))
        style = torch.cat([random, model.style(batch.references[0, half:])])
        fake = model.render(batch.images, style, batch.mask)
    real = batch.images.detach().requires_grad_()
    score = model.discriminator(real)
    (gradient,) = torch.autograd.grad(score.sum(), real, create_graph=True)
    penalty = 0.5 * gradient.square().flatten(1).sum(1).mean()
    on_real, on_fake = F.softplus(-score).mean(), F.softplus(model.discriminator(fake)).mean()
    parts = {"real": on_real, "fake": on_fake, "r1": penalty}
    return on_real + on_fake + weights.r1 * penalty, parts


def latent_loss(
    model: Networks, batch: Batch, generator: torch.Generator, weights: Weights
) -> Parts:
    """Return the loss of rendering the first half of the batch in random styles.

    It trains the generator, the mapping network and the style encoder.
    """
    first = batch.only(slice(None, len(batch.images) // 2))
    styles = [model.mapping(_latents(first.images, generator)) for _ in range(2)]
    return _rendering_loss(model, first, styles, generator, weights)


def reference_loss(
    model: Networks, batch: Batch, generator: torch.Generator, weights: Weights
) -> Parts:
    """Return the loss of rendering the second half of the batch in styles of references.

    It trains the generator.
    """
    second = batch.only(slice(len(batch.images) // 2, None))
    with torch.no_grad():
        styles = [model.style(references) for references in second.references]
    return _rendering_loss(model, second, styles, generator, weights)


def _rendering_loss(
    model: Networks,
    batch: Batch,
    styles: list[Tensor],
    generator: torch.Generator,
    weights: Weights,
) -> Parts:
    """Return the sum of adversarial, style (eq. 2), diversity (eq. 3) and cycle (eq. 4) losses."""
    images, mask = batch.images, batch.mask
    fake = model.render(images, styles[0], mask)
    own = model.style(images)
    again = model.render(fake, own, mask)
    parts = {
        "adversarial": F.softplus(-model.discriminator(fake)).mean(),
        "style": F.l1_loss(model.style(fake), styles[0]),
        "cycle": F.l1_loss(again, images),
    }
    loss = parts["adversarial"] + weights.style * parts["style"] + weights.cycle * parts["cycle"]
    if weights.own:
        seen = images
        if weights.scanners:
            seen = 2 * random_scanner((images + 1) / 2, weights.scanners, generator) - 1
        parts["own"] = F.l1_loss(model.render(seen, own, mask), images)
        loss = loss + weights.own * parts["own"]
    if batch.diversity:
        with torch.no_grad():
            second = model.render(images, styles[1], mask)
        parts["diversity"] = F.l1_loss(fake, second)
        loss = loss - batch.diversity * parts["diversity"]
    parts["out-of-range"] = ((fake.detach().abs() > 1) & mask).sum() / mask.sum().clamp(1)
    return loss, parts


def _latents(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(len(like), LATENT, generator=generator, device=like.device)
