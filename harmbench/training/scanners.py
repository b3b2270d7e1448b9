"""Simulated scanners: random contrast, bias field, blur and noise for the input of an encoder.

The difference between two such images of one slice is not anatomy. An encoder that sees a new
random scanner in every step learns to ignore scanners (as in SynthSeg, Billot 2023,
doi:10.1016/j.media.2023.102789), without any label of a site.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

KNOTS = 5
"""Pieces of the random contrast curve."""
FIELD = 4
"""Side of the coarse grid of the bias field."""


def random_scanner(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Return each image as if from another scanner. Pixels that are 0 stay 0.

    Parameters
    ----------
    images : Tensor, shape (n, 1, height, width)
        Intensities from 0 to 1.
    strength : float
        0 for no change, 1 for about the spread between clinical scanners.
    generator : Generator
        On the device of the images.

    Returns
    -------
    Tensor, shape (n, 1, height, width)
    """
    n = len(images)
    options: dict[str, Any] = {
        "generator": generator,
        "device": images.device,
        "dtype": images.dtype,
    }

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, **options)

    def uniform() -> Tensor:
        return torch.rand((n, 1, 1, 1), **options)

    out = _contrast(images, strength, normal(n, KNOTS))
    coarse = normal(n, 1, FIELD, FIELD)
    smooth = F.interpolate(coarse, images.shape[-2:], mode="bicubic", align_corners=True)
    out = out * torch.exp(0.06 * strength * smooth)
    # Blur, or sharpen where the share is negative.
    share = strength * (1.6 * uniform() - 0.6)
    out = out + share.clamp(max=1) * (_blurred(out) - out)
    level = 0.03 * strength * uniform()
    out = out + level * normal(*images.shape)
    return out * (images != 0)


def _contrast(images: Tensor, strength: float, noise: Tensor) -> Tensor:
    """Apply a random increasing piecewise linear curve through 0 to the intensities."""
    rises = torch.exp(0.5 * strength * noise) / KNOTS
    heights = F.pad(rises.cumsum(1), (1, 0))
    heights = heights / heights[:, -1:] * (1 + 0.1 * strength * noise[:, :1])
    place = (images.clamp(0, 1.25) * KNOTS).flatten(1)
    knot = place.floor().clamp(max=KNOTS - 1).long()
    low, high = heights.gather(1, knot), heights.gather(1, knot + 1)
    return (low + (place - knot) * (high - low)).reshape(images.shape)


def _blurred(images: Tensor) -> Tensor:
    """Apply a 3 x 3 binomial filter."""
    edge = torch.tensor([0.25, 0.5, 0.25], device=images.device, dtype=images.dtype)
    return F.conv2d(images, (edge[:, None] * edge)[None, None], padding=1)
