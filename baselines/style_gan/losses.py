"""Losses of the style-encoding GAN: functions of networks and a batch that return (loss, parts).

Choi 2020 (arXiv 1912.01865), equations 1 to 6, with one domain; weights as in Liu 2021
(10.1007/978-3-030-87199-4_30). Images are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.style_gan.networks import LATENT, Networks
from harmbench.training.scanners import random_scanner

Parts = tuple[Tensor, dict[str, Tensor]]


class Batch(NamedTuple):
    """What one step trains on.

    Attributes
    ----------
    images : Tensor, shape (n, 1, h, w)
        The scans to render in other styles.
    mask : Tensor of bool, shape (n, 1, h, w)
        Their foreground.
    references : Tensor, shape (2, n, 1, h, w)
        Scans to take styles from, twice.
    diversity : float
        This step's weight of the diversity loss; as part of the batch it is a function of the
        step, so a resumed training continues its decay.
    """

    images: Tensor
    mask: Tensor
    references: Tensor
    diversity: float

    def only(self, rows: slice) -> Batch:
        """Return some of its rows."""
        return Batch(self.images[rows], self.mask[rows], self.references[:, rows], self.diversity)


@dataclass(frozen=True)
class Weights:
    """Weights of the losses against the adversarial one's 1; diversity's is in the batch.

    Attributes
    ----------
    style, cycle : float
        Of the style's and the image's mean absolute error.
    own : float
        Of the image's mean absolute error when it is rendered in its own style; not published.
    scanners : float
        Strength of the made-up scanner through which that rendering sees the content.
    r1 : float
        Of the penalty on the discriminator's gradient; half of it multiplies the squared norm.
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

    The first half of the batch is rendered in random styles, the second in those of references.
    """
    half = len(batch.images) // 2
    with torch.no_grad():
        random = model.mapping(_latents(batch.images[:half], generator))
        style = torch.cat([random, model.style(batch.references[0, half:])])
        fake = model.render(batch.images, style, batch.mask)
    real = batch.images.detach().requires_grad_()
    score = model.discriminator(real)
    penalty = 0.5 * _squared_gradient(score, real)
    on_real, on_fake = F.softplus(-score).mean(), F.softplus(model.discriminator(fake)).mean()
    parts = {"real": on_real, "fake": on_fake, "r1": penalty}
    return on_real + on_fake + weights.r1 * penalty, parts


def latent_loss(
    model: Networks, batch: Batch, generator: torch.Generator, weights: Weights
) -> Parts:
    """Return the loss of rendering the first half of the batch in random styles.

    Moves generator, mapping network and style encoder.
    """
    half = len(batch.images) // 2
    first = batch.only(slice(None, half))
    styles = [model.mapping(_latents(first.images, generator)) for _ in range(2)]
    return _rendering_loss(model, first, styles[0], styles[1], generator, weights)


def reference_loss(
    model: Networks, batch: Batch, generator: torch.Generator, weights: Weights
) -> Parts:
    """Return the loss of rendering the second half of the batch in styles of references.

    Moves the generator.
    """
    second = batch.only(slice(len(batch.images) // 2, None))
    with torch.no_grad():
        styles = [model.style(references) for references in second.references]
    return _rendering_loss(model, second, styles[0], styles[1], generator, weights)


Loss = Callable[..., Parts]
"""A loss of this module, called with the networks, a batch, a generator and `weights`."""


def _rendering_loss(
    model: Networks,
    batch: Batch,
    style: Tensor,
    other: Tensor,
    generator: torch.Generator,
    weights: Weights,
) -> Parts:
    """Return adversarial, style (eq. 2), diversity (eq. 3) and cycle (eq. 4) losses together."""
    images, mask = batch.images, batch.mask
    fake = model.render(images, style, mask)
    own = model.style(images)
    again = model.render(fake, own, mask)
    parts = {
        "adversarial": F.softplus(-model.discriminator(fake)).mean(),
        "style": F.l1_loss(model.style(fake), style),
        "cycle": F.l1_loss(again, images),
    }
    loss = parts["adversarial"] + weights.style * parts["style"] + weights.cycle * parts["cycle"]
    if weights.own:
        seen = _rescanned(images, generator, weights.scanners)
        parts["own"] = F.l1_loss(model.render(seen, own, mask), images)
        loss = loss + weights.own * parts["own"]
    if batch.diversity:
        with torch.no_grad():
            second = model.render(images, other, mask)
        parts["diversity"] = F.l1_loss(fake, second)
        loss = loss - batch.diversity * parts["diversity"]
    parts["out-of-range"] = ((fake.detach().abs() > 1) & mask).sum() / mask.sum().clamp(1)
    return loss, parts


def _rescanned(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Return the images (in [-1, 1]) through made-up scanners."""
    if not strength:
        return images
    return 2 * random_scanner((images + 1) / 2, strength, generator) - 1


def _latents(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(len(like), LATENT, generator=generator, device=like.device)


def _squared_gradient(score: Tensor, images: Tensor) -> Tensor:
    """Return the mean over images of the squared norm of the score's gradient."""
    (gradient,) = torch.autograd.grad(score.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()
