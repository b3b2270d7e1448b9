"""The networks of the DDAE: noise predictor, image encoder, label encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harmbench.training.layers import (
    ConditionedBlock,
    SelfAttention,
    embed_time,
    norm,
    pad_to,
    reverse_gradient,
    zeroed,
)

Merge = Literal["project", "sum", "separate"]


@dataclass(frozen=True)
class Shape:
    """Sizes of the networks.

    Attributes
    ----------
    size : tuple of int
        Height and width of the images, pixels.
    channels : int
        Of the first level.
    multipliers : tuple of int
        Channels of each level, in units of `channels`; every level halves the grid.
    blocks : int
        Residual blocks of a level.
    patch : int
        Side of the blocks of pixels that become channels before the first level; 1 for none.
    attention : int
        Side, in pixels, of the largest grid with attention, counted in the image's own pixels
        divided by the patch; 0 for none.
    dropout : float
        In every residual block.
    """

    size: tuple[int, int]
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    patch: int
    attention: int
    dropout: float

    @property
    def multiple(self) -> int:
        """Sides are padded to a multiple of this."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def grids(self) -> list[int]:
        """Longer side of the map at each level."""
        side = -(-max(self.size) // self.multiple) * self.multiple // self.patch
        return [side >> level for level in range(len(self.multipliers))]

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.channels * m for m in self.multipliers]


class _Block(nn.Module):
    """A residual block, and attention where the grid is small enough."""

    def __init__(
        self, shape: Shape, level: int, inputs: int, time: int = 0, latents: Sequence[int] = ()
    ) -> None:
        super().__init__()
        outputs = shape.widths[level]
        self.residual = ConditionedBlock(
            inputs, outputs, time=time, latents=latents, dropout=shape.dropout
        )
        near = shape.grids[level] <= shape.attention
        self.attention = SelfAttention(outputs) if near else nn.Identity()

    def forward(
        self, x: Tensor, time: Tensor | None = None, latents: Sequence[Tensor] = ()
    ) -> Tensor:
        return self.attention(self.residual(x, time, latents))


class UNet(nn.Module):
    """Predicts noise or velocity from a noisy image, the time and the latents (Ho 2020).

    Parameters
    ----------
    shape : Shape
        Sizes.
    latents : sequence of int
        Lengths of the latents that scale every residual block.
    extra : int
        Channels of a map on the first level's grid that is given beside the image.
    """

    def __init__(self, shape: Shape, latents: Sequence[int], extra: int = 0) -> None:
        super().__init__()
        self.shape = shape
        widths, levels, time = shape.widths, len(shape.multipliers), 4 * shape.channels
        self.time = nn.Sequential(nn.Linear(shape.channels, time), nn.SiLU(), nn.Linear(time, time))
        self.stem = nn.Conv2d(shape.patch**2 + extra, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        before, skips = widths[0], []
        for level in range(levels):
            blocks = nn.ModuleList()
            for _ in range(shape.blocks):
                blocks.append(_Block(shape, level, before, time, latents))
                before = widths[level]
                skips.append(before)
            self.down.append(blocks)
            if level < levels - 1:
                self.shrink.append(nn.Conv2d(before, before, 3, stride=2, padding=1))
        self.middle = nn.ModuleList(
            _Block(shape, levels - 1, before, time, latents) for _ in range(2)
        )
        for level in reversed(range(levels)):
            blocks = nn.ModuleList()
            for _ in range(shape.blocks):
                blocks.append(_Block(shape, level, before + skips.pop(), time, latents))
                before = widths[level]
            self.up.append(blocks)
            if level:
                self.grow.append(nn.Conv2d(before, before, 3, padding=1))
        last = zeroed(nn.Conv2d(before, shape.patch**2, 3, padding=1))
        self.out = nn.Sequential(norm(before), nn.SiLU(), last)

    def forward(
        self, x: Tensor, times: Tensor, latents: Sequence[Tensor], extra: Tensor | None = None
    ) -> Tensor:
        """Return the prediction.

        Parameters
        ----------
        x : Tensor, shape (n, 1, height, width)
        times : Tensor, shape (n,)
            0 to `ddae.diffusion.STEPS`.
        latents : sequence of Tensor, each of shape (n, length)
        extra : Tensor or None, shape (n, extra, grid, grid)

        Returns
        -------
        Tensor, shape (n, 1, height, width)
        """
        height, width = x.shape[-2:]
        time = self.time(embed_time(times, self.shape.channels))
        h = F.pixel_unshuffle(pad_to(x, self.shape.multiple), self.shape.patch)
        h = self.stem(h if extra is None else torch.cat([h, extra], dim=1))
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks.children():
                h = block(h, time, latents)
                skips.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
        for block in self.middle:
            h = block(h, time, latents)
        for level, blocks in enumerate(self.up):
            for block in blocks.children():
                h = block(torch.cat([h, skips.pop()], dim=1), time, latents)
            if level < len(self.grow):
                h = self.grow[level](F.interpolate(h, scale_factor=2))
        return F.pixel_shuffle(self.out(h), self.shape.patch)[..., :height, :width]


class Encoder(nn.Module):
    """Image to latent, s_phi: the way down of the noise predictor, without time.

    Parameters
    ----------
    shape : Shape
        Sizes.
    length : int
        Of the latent.
    extra : int
        Channels of a map that is returned beside it; 0 for none.
    reach : int
        Level of the grid that the map is made on.
    """

    def __init__(self, shape: Shape, length: int, extra: int = 0, reach: int = 0) -> None:
        super().__init__()
        self.shape, self.reach = shape, reach
        widths = shape.widths
        self.stem = nn.Conv2d(shape.patch**2, widths[0], 3, padding=1)
        self.levels, self.shrink = nn.ModuleList(), nn.ModuleList()
        before = widths[0]
        for level, width in enumerate(widths):
            blocks = [_Block(shape, level, before)]
            blocks += [_Block(shape, level, width) for _ in range(shape.blocks - 1)]
            self.levels.append(nn.Sequential(*blocks))
            before = width
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(before, before, 3, stride=2, padding=1))
        self.out = nn.Sequential(norm(before), nn.SiLU())
        self.latent = nn.Linear(before, length)
        self.map = nn.Conv2d(widths[reach], extra, 1) if extra else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the latent, shape (n, length), and the map on the first level's grid, or None."""
        h = self.stem(F.pixel_unshuffle(pad_to(images, self.shape.multiple), self.shape.patch))
        extra = None
        for level, blocks in enumerate(self.levels):
            h = blocks(h)
            if self.map is not None and level == self.reach:
                extra = F.interpolate(self.map(h), scale_factor=2**level, mode="bilinear")
            if level < len(self.shrink):
                h = self.shrink[level](h)
        return self.latent(self.out(h).mean(dim=(2, 3))), extra


class LabelEncoder(nn.Module):
    """Age, sex and site to latent, f_psi; a learned null where age or sex is not told.

    Parameters
    ----------
    sites : int
        Number of sites.
    length : int
        Of the latent.
    """

    def __init__(self, sites: int, length: int) -> None:
        super().__init__()
        self.site = nn.Embedding(sites, length)
        self.sex = nn.Embedding(3, length)
        self.age = nn.Sequential(nn.Linear(1, length), nn.SiLU(), nn.Linear(length, length))
        self.no_age = nn.Parameter(torch.zeros(length))
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(length, length))

    def forward(self, age: Tensor, sex: Tensor, site: Tensor) -> Tensor:
        """Return the latent, shape (n, length).

        Parameters
        ----------
        age : Tensor of float32, shape (n,)
            Standardized; NaN where it is not told.
        sex : Tensor of int64, shape (n,)
            0, 1, or 2 where it is not told.
        site : Tensor of int64, shape (n,)
        """
        known = self.age(torch.nan_to_num(age)[:, None])
        aged = torch.where(torch.isnan(age)[:, None], self.no_age, known)
        return self.mix(aged + self.sex(sex) + self.site(site))


class DDAENetwork(nn.Module):
    """All networks of the DDAE.

    Parameters
    ----------
    shape : Shape
        Sizes.
    sites : int
        Number of sites.
    known, unknown : int
        Lengths of the latent of the labels and of the image.
    merge : {"project", "sum", "separate"}
        Project both, joined, to one; add them; or let each scale the blocks by itself.
    kappa_std : float
        Standard deviation of the noise on the labels' latent in training.
    extra, reach : int
        See `Encoder`.
    adversary : bool
        Whether a classifier of the site reads the image's latents, see `reverse_gradient`.
    """

    def __init__(
        self,
        shape: Shape,
        sites: int,
        *,
        known: int,
        unknown: int,
        merge: Merge,
        kappa_std: float,
        extra: int,
        reach: int,
        adversary: bool,
    ) -> None:
        super().__init__()
        self.merge, self.kappa_std = merge, kappa_std
        self.labels = LabelEncoder(sites, unknown if merge == "sum" else known)
        self.encoder = Encoder(shape, unknown, extra, reach)
        both = self.labels.no_age.numel() + unknown
        self.join = nn.Linear(both, unknown) if merge == "project" else None
        latents = [known, unknown] if merge == "separate" else [unknown]
        self.unet = UNet(shape, latents, extra)
        self.critic = _Critic(unknown, extra, sites) if adversary else None

    def forward(
        self, x: Tensor, times: Tensor, seen: Tensor, labels: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the prediction at `x`, and the adversary's logits of the sites, shape (n, sites).

        Parameters
        ----------
        x : Tensor, shape (n, 1, height, width)
            Noisy images.
        times : Tensor, shape (n,)
        seen : Tensor, shape (n, 1, height, width)
            What the encoder sees of them.
        labels : dict of Tensor
            ``age``, ``sex`` and ``site``, see `LabelEncoder`.
        """
        z, extra = self.encoder(seen)
        logits = None
        if self.critic is not None:
            logits = self.critic(
                reverse_gradient(z), None if extra is None else reverse_gradient(extra)
            )
        return self.predict(x, times, z, extra, labels), logits

    def predict(
        self, x: Tensor, times: Tensor, z: Tensor, extra: Tensor | None, labels: dict[str, Tensor]
    ) -> Tensor:
        """Return the prediction at `x` with the image's latents given, shape (n, 1, h, w)."""
        known = self.labels(**labels)
        if self.training and self.kappa_std:
            known = known + self.kappa_std * torch.randn_like(known)
        latents = [known, z]
        if self.merge == "sum":
            latents = [known + z]
        elif self.join is not None:
            latents = [self.join(torch.cat(latents, dim=1))]
        return self.unet(x, times, latents, extra)


class _Critic(nn.Module):
    """Reads the site from the image's latents."""

    def __init__(self, length: int, extra: int, sites: int) -> None:
        super().__init__()
        self.pixels = (
            nn.Sequential(
                nn.Conv2d(extra, 32, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),
                nn.SiLU(),
            )
            if extra
            else None
        )
        self.out = nn.Sequential(
            nn.Linear(length + (128 if extra else 0), 128),
            nn.SiLU(),
            nn.Linear(128, sites),
        )

    def forward(self, z: Tensor, extra: Tensor | None) -> Tensor:
        if self.pixels is not None and extra is not None:
            h = self.pixels(extra)
            # Mean and spread of each channel: contrast shows in one, noise and blur in the other.
            z = torch.cat([z, h.mean(dim=(2, 3)), h.var(dim=(2, 3)).add(1e-5).sqrt()], dim=1)
        return self.out(z)
