"""Made-up scanners: random contrast, receive field, point spread and noise for an encoder's input.

What changes between two such pictures of one slice cannot be anatomy, so an encoder that sees a
newly drawn scanner in every step learns to overlook scanners (as in SynthSeg, Billot 2023,
doi:10.1016/j.media.2023.102789), without any label of any site.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

KNOTS = 5
FIELD = 4


def random_scanner(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Return each image as if by another scanner; what is 0 outside the head stays 0.

    Parameters
    ----------
    images : Tensor, shape (n, 1, height, width)
        0 to 1.
    strength : float
        0 for none, 1 for about the spread between clinical scanners.
    generator : Generator
        On the images' device.

    Returns
    -------
    Tensor, shape (n, 1, height, width)
    """
    inside = images != 0
    out = _contrast(images, strength, generator)
    out = out * _field(images, strength, generator)
    out = _spread(out, strength, generator)
    level = 0.03 * strength * _uniform((len(images), 1, 1, 1), generator, images)
    out = out + level * torch.randn(
        images.shape, generator=generator, device=images.device, dtype=images.dtype
    )
    return out * inside


def _uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


def _contrast(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Bend the gray scale by a random rising curve through 0 (piecewise linear)."""
    n = len(images)
    noise = torch.randn((n, KNOTS), generator=generator, device=images.device, dtype=images.dtype)
    rises = torch.exp(0.5 * strength * noise) / KNOTS
    heights = F.pad(rises.cumsum(1), (1, 0))
    heights = heights / heights[:, -1:] * (1 + 0.1 * strength * noise[:, :1])
    place = (images.clamp(0, 1.25) * KNOTS).flatten(1)
    knot = place.floor().clamp(max=KNOTS - 1).long()
    low, high = heights.gather(1, knot), heights.gather(1, knot + 1)
    return (low + (place - knot) * (high - low)).reshape(images.shape)


def _field(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Return smooth random factors around 1."""
    coarse = torch.randn(
        (len(images), 1, FIELD, FIELD),
        generator=generator,
        device=images.device,
        dtype=images.dtype,
    )
    smooth = F.interpolate(coarse, images.shape[-2:], mode="bicubic", align_corners=True)
    return torch.exp(0.06 * strength * smooth)


def _spread(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Blur or sharpen: add or subtract a share of what a 3 x 3 binomial filter takes away."""
    edge = torch.tensor([0.25, 0.5, 0.25], device=images.device, dtype=images.dtype)
    kernel = (edge[:, None] * edge)[None, None]
    blurred = F.conv2d(images, kernel, padding=1)
    share = strength * (1.6 * _uniform((len(images), 1, 1, 1), generator, images) - 0.6)
    return images + share.clamp(max=1) * (blurred - images)
