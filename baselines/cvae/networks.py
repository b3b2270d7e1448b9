"""The networks of the conditional VAE: an encoder without site, a decoder with site."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harmbench.training.layers import ConditionedBlock, norm, reverse_gradient, space_to_depth

Latent = Literal["map", "vector"]

SITE_WIDTH = 32
"""Length of the embedding of a site."""
SITE_MAPS = 8
"""Feature maps that the decoder learns for each site, for effects fixed in scanner space."""
CORNERS = 4
"""Side of the map between a latent vector and the images."""
START_SCALE = 0.02
"""Initial scale of the likelihood. It is smaller than the first errors, so that the network learns
to encode images before it lowers the KL divergence."""
START_LOG_VARIANCE = -3.0
"""Initial log variance of the posterior. The network would ignore a code with much noise."""
LOG_VARIANCES = (-14.0, 4.0)
"""Range of the posterior's log variance in which single precision is sufficient."""


class Posterior(NamedTuple):
    """Mean and log variance of the Gaussian codes of images, each of shape (n, channels, h, w).

    A latent vector has ``h = w = 1``.
    """

    mean: Tensor
    log_var: Tensor


class Rendered(NamedTuple):
    """Output of the network in training.

    Attributes
    ----------
    posterior : Posterior
        Posterior of each image.
    output : Tensor, shape (n, height, width)
        A random code of each image, rendered at its own site.
    site_logits : Tensor of shape (n, sites), or None
        The adversary's prediction of the own site from a rendering at another site. Its gradient
        is reversed for the rendering.
    log_scale : Tensor, shape ()
        Logarithm of the learned scale of the likelihood.
    """

    posterior: Posterior
    output: Tensor
    site_logits: Tensor | None
    log_scale: Tensor


class SiteMaps(nn.Module):
    """Learned maps of each site as additional channels, for effects fixed in scanner space."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.zeros(sites, SITE_MAPS, 2 * CORNERS, 2 * CORNERS))

    def forward(self, x: Tensor, site: Tensor) -> Tensor:
        """Map (n, channels, h, w) to (n, channels + SITE_MAPS, h, w)."""
        maps = F.interpolate(self.maps[site], x.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([x, maps.to(x.dtype)], dim=1)


class Network(nn.Module):
    """Encoder, decoder, scale of the likelihood and, optionally, the adversary.

    Blocks of pixels become channels before the first convolution, and channels become pixels after
    the last one, so that all convolutions have `grid` by `grid` maps.

    Parameters
    ----------
    shape : (int, int)
        Shape of an image.
    sites : int
        Number of sites.
    latent, latent_size, width, depth, grid
        See `baselines.cvae.method.CVAE`.
    adversary : bool
        Whether there is an adversary.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        sites: int,
        *,
        latent: Latent,
        latent_size: int,
        width: int,
        depth: int,
        grid: int,
        adversary: bool,
    ) -> None:
        super().__init__()
        self.shape, self.grid, self.sites = shape, grid, sites
        self.block = math.ceil(max(shape) / grid)
        pixels = self.block**2
        self.encoder = nn.Sequential(
            nn.Conv2d(pixels, width, 1),
            *(ConditionedBlock(width, width) for _ in range(depth)),
            norm(width),
            nn.SiLU(),
            *_to_code(latent, width, 2 * latent_size),
        )
        self.site = nn.Embedding(sites, SITE_WIDTH)
        self.from_code = _from_code(latent, latent_size, width, grid)
        self.site_maps = SiteMaps(sites)
        self.into = nn.Conv2d(width + SITE_MAPS, width, 1)
        self.blocks = nn.ModuleList(
            ConditionedBlock(width, width, time=SITE_WIDTH) for _ in range(depth)
        )
        self.out = nn.Sequential(norm(width), nn.SiLU(), nn.Conv2d(width, pixels, 1))
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))
        self.adversary = _classifier(pixels, width, sites) if adversary else None

    def encode(self, images: Tensor) -> Posterior:
        """Return the posterior of images of shape (n, height, width)."""
        mean, log_var = self.encoder(space_to_depth(images.unsqueeze(1), self.grid)).chunk(2, dim=1)
        return Posterior(mean, (log_var + START_LOG_VARIANCE).clamp(*LOG_VARIANCES))

    def decode(self, code: Tensor, site: Tensor) -> Tensor:
        """Render codes (n, channels, h, w) at sites (n,); return (n, height, width)."""
        h = self.into(self.site_maps(self.from_code(code), site))
        embedding = self.site(site)
        for block in self.blocks:
            h = block(h, embedding)
        height, width = self.shape
        return F.pixel_shuffle(self.out(h), self.block)[:, 0, :height, :width]

    def forward(self, images: Tensor, site: Tensor, generator: torch.Generator) -> Rendered:
        """Render a random code of each image (n, height, width) at its site (n,)."""
        posterior = self.encode(images)
        code = draw(posterior, generator)
        output = self.decode(code, site)
        if self.adversary is None:
            return Rendered(posterior, output, None, self.log_scale)
        step = torch.randint(1, self.sites, site.shape, generator=generator, device=site.device)
        other = self.decode(code, (site + step) % self.sites)
        logits = self.adversary(space_to_depth(reverse_gradient(other).unsqueeze(1), self.grid))
        return Rendered(posterior, output, logits, self.log_scale)


def draw(posterior: Posterior, generator: torch.Generator) -> Tensor:
    """Return a random code of each image, differentiable with respect to the posterior."""
    mean = posterior.mean
    noise = torch.randn(mean.shape, generator=generator, device=mean.device).to(mean.dtype)
    return torch.addcmul(mean, noise, (0.5 * posterior.log_var).exp())


def _to_code(latent: str, width: int, outputs: int) -> list[nn.Module]:
    if latent == "map":
        return [nn.Conv2d(width, outputs, 1)]
    return [
        nn.AdaptiveAvgPool2d(CORNERS),
        nn.Flatten(),
        nn.Linear(width * CORNERS**2, outputs),
        nn.Unflatten(1, (outputs, 1, 1)),
    ]


def _from_code(latent: str, inputs: int, width: int, grid: int) -> nn.Module:
    if latent == "map":
        return nn.Conv2d(inputs, width, 1)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, width * CORNERS**2),
        nn.Unflatten(1, (width, CORNERS, CORNERS)),
        nn.Upsample((grid, grid), mode="bilinear", align_corners=False),
    )


def _classifier(inputs: int, width: int, sites: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 1),
        ConditionedBlock(width, width),
        norm(width),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(CORNERS),
        nn.Flatten(),
        nn.Linear(width * CORNERS**2, sites),
    )
