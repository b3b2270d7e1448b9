"""From a scan's code to its picture at a site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from baselines.cvae.networks import Network, Posterior
from harmbench.seeding import seed_from

RIM = 1
"""Voxels around a scan's mask that are learned and rendered, too: the half-filled edge."""

Render = Literal["decode", "difference"]


def grown(mask: NDArray[np.bool_]) -> Tensor:
    """Return masks (n, height, width), each grown by `RIM` voxels, as a tensor of bool."""
    edges = F.max_pool2d(torch.from_numpy(mask.astype(np.float32)), 2 * RIM + 1, 1, RIM)
    return edges > 0


def codes(posterior: Posterior, samples: int, seed: int) -> list[Tensor]:
    """Return codes to render and average.

    Parameters
    ----------
    posterior : Posterior
        Of n images.
    samples : int
        Number of draws; 0 for the posterior mean alone.
    seed : int
        Of the noise, which all images share, so that no image's result depends on the others.

    Returns
    -------
    list of Tensor, each of the shape of the posterior's mean
    """
    if not samples:
        return [posterior.mean]
    generator = torch.Generator().manual_seed(seed_from("cvae code", seed))
    noise = torch.randn((samples, *posterior.mean.shape[1:]), generator=generator)
    std = (0.5 * posterior.log_var).exp()
    return [posterior.mean + std * one for one in noise.to(std.device)]


def render(
    network: Network,
    images: Tensor,
    drawn: Sequence[Tensor],
    own: Tensor,
    target: Tensor,
    how: Render,
) -> Tensor:
    """Return the mean rendering of several codes of each image at a site.

    Parameters
    ----------
    network : Network
    images : Tensor, shape (n, height, width)
    drawn : sequence of Tensor
        Codes of the images, see `codes`.
    own, target : Tensor of int64, shape (n,)
        Numbers of the images' sites and of those to render to; `own` is read for a difference only.
    how : {"decode", "difference"}
        See `baselines.cvae.method.CVAE`.

    Returns
    -------
    Tensor, shape (n, height, width)
    """
    at_target = torch.stack([network.decode(code, target) for code in drawn]).mean(0)
    if how == "decode":
        return at_target
    at_own = torch.stack([network.decode(code, own) for code in drawn]).mean(0)
    return images + at_target - at_own
