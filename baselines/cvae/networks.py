"""The networks of the conditional VAE: a site-blind encoder, a site-conditioned decoder."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harmbench.training.layers import ConditionedBlock, norm, reverse_gradient, space_to_depth

Latent = Literal["map", "vector"]

SITE_WIDTH = 32
"""Length of a site's embedding."""
SITE_MAPS = 8
"""Feature maps that the decoder learns for each site: fields that lie in the scanner's space."""
CORNERS = 4
"""Side of the map between a latent vector and the images."""
START_SCALE = 0.02
"""Of the likelihood: under the first errors, so that images are encoded before KLs are saved."""
START_LOG_VARIANCE = -3.0
"""Of the posterior: a code drowned in noise would be given up."""
LOG_VARIANCES = (-14.0, 4.0)
"""Range of the posterior's log variance; outside it single precision has no meaningful KL."""


class Posterior(NamedTuple):
    """What the encoder says of images: independent Gaussians.

    Attributes
    ----------
    mean, log_var : Tensor, shape (n, channels, h, w)
        A latent vector has ``h = w = 1``.
    """

    mean: Tensor
    log_var: Tensor


class Rendered(NamedTuple):
    """One pass through the network.

    Attributes
    ----------
    posterior : Posterior
        Of every image.
    output : Tensor, shape (n, height, width)
        Rendered to the images' own sites from one draw of the posterior.
    site_logits : Tensor of shape (n, sites), or None
        What the adversary says of the images' own sites, seeing only renderings to other sites.
        Its gradient towards the renderings is turned round.
    log_scale : Tensor, shape ()
        Logarithm of the likelihood's learned scale.
    """

    posterior: Posterior
    output: Tensor
    site_logits: Tensor | None
    log_scale: Tensor


class SiteMaps(nn.Module):
    """Learned maps of each site, added as channels: site effects have a place in the scanner."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.zeros(sites, SITE_MAPS, 2 * CORNERS, 2 * CORNERS))

    def forward(self, x: Tensor, site: Tensor) -> Tensor:
        """Map (n, channels, h, w) to (n, channels + SITE_MAPS, h, w)."""
        maps = F.interpolate(self.maps[site], x.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([x, maps.to(x.dtype)], dim=1)


class Network(nn.Module):
    """Encoder, decoder, the scale of the likelihood, and the adversary where there is one.

    Blocks of pixels are folded into channels before the first convolution and unfolded after the
    last, so that all convolutions work on `grid` by `grid` maps.

    Parameters
    ----------
    shape : (int, int)
        Of an image.
    sites : int
        Number of sites.
    latent : {"map", "vector"}
        A map has `latent_size` channels in every block of pixels; a vector `latent_size` numbers.
    latent_size, width, depth, grid : int
        Size of the code, channels, residual blocks in the encoder and in the decoder, side of maps.
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
        """Render codes (n, channels, h, w) to sites (n,); return (n, height, width)."""
        h = self.into(self.site_maps(self.from_code(code), site))
        embedding = self.site(site)
        for block in self.blocks:
            h = block(h, embedding)
        height, width = self.shape
        return F.pixel_shuffle(self.out(h), self.block)[:, 0, :height, :width]

    def forward(self, images: Tensor, site: Tensor, generator: torch.Generator) -> Rendered:
        """Encode images of shape (n, height, width), draw a code each, render it to sites (n,)."""
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
    """Return one draw of the posterior, of the shape of its mean, that gradients pass through."""
    noise = torch.randn(posterior.mean.shape, generator=generator, device=posterior.mean.device).to(
        posterior.mean.dtype
    )
    return torch.addcmul(posterior.mean, noise, (0.5 * posterior.log_var).exp())


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
