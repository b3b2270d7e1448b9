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
        Height and width of the images, in pixels.
    channels : int
        Channels of the first level.
    multipliers : tuple of int
        Channels of each level, relative to the first level. Every level halves the grid.
    blocks : int
        Residual blocks per level.
    patch : int
        Side of the blocks of pixels that become channels before the first level; 1 for none.
    attention : int
        Side of the largest grid with attention, in patches; 0 for none.
    dropout : float
        Probability of dropout in every residual block.
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
        """The sides of images are padded to a multiple of this number."""
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

    def fold(self, images: Tensor) -> Tensor:
        """Pad images and move their patches into channels."""
        return F.pixel_unshuffle(pad_to(images, self.multiple), self.patch)


class _Block(nn.Module):
    """A residual block, with attention if the grid is small enough."""

    def __init__(
        self, shape: Shape, level: int, inputs: int, time: int = 0, latents: Sequence[int] = ()
    ) -> None:
        super().__init__()
        outputs = shape.widths[level]
        self.residual = ConditionedBlock(
            inputs, outputs, time=time, latents=latents, dropout=shape.dropout
        )
        small = shape.grids[level] <= shape.attention
        self.attention = SelfAttention(outputs) if small else nn.Identity()

    def forward(
        self, x: Tensor, time: Tensor | None = None, latents: Sequence[Tensor] = ()
    ) -> Tensor:
        return self.attention(self.residual(x, time, latents))


class UNet(nn.Module):
    """Predicts noise or velocity from a noisy image, the time and the latents (Ho 2020).

    The latents of the given lengths scale every residual block. A map with `code_map` channels on
    the grid of the first level is added to the channels of the image.
    """

    def __init__(self, shape: Shape, latents: Sequence[int], code_map: int = 0) -> None:
        super().__init__()
        self.shape = shape
        widths, time = shape.widths, 4 * shape.channels
        self.time = nn.Sequential(nn.Linear(shape.channels, time), nn.SiLU(), nn.Linear(time, time))
        self.stem = nn.Conv2d(shape.patch**2 + code_map, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        before, skips = widths[0], []
        for level, width in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(shape.blocks):
                blocks.append(_Block(shape, level, before, time, latents))
                before = width
                skips.append(before)
            self.down.append(blocks)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(before, before, 3, stride=2, padding=1))
        self.middle = nn.ModuleList(
            _Block(shape, len(widths) - 1, before, time, latents) for _ in range(2)
        )
        for level, width in reversed(list(enumerate(widths))):
            blocks = nn.ModuleList()
            for _ in range(shape.blocks):
                blocks.append(_Block(shape, level, before + skips.pop(), time, latents))
                before = width
            self.up.append(blocks)
            if level:
                self.grow.append(nn.Conv2d(before, before, 3, padding=1))
        last = zeroed(nn.Conv2d(before, shape.patch**2, 3, padding=1))
        self.out = nn.Sequential(norm(before), nn.SiLU(), last)

    def forward(
        self, x: Tensor, times: Tensor, latents: Sequence[Tensor], code_map: Tensor | None = None
    ) -> Tensor:
        """Return the prediction, shape (n, 1, height, width).

        Parameters
        ----------
        x : Tensor, shape (n, 1, height, width)
        times : Tensor, shape (n,)
            From 0 to `ddae.diffusion.STEPS`.
        latents : sequence of Tensor, each of shape (n, length)
        code_map : Tensor or None, shape (n, code_map, grid, grid)
        """
        height, width = x.shape[-2:]
        time = self.time(embed_time(times, self.shape.channels))
        h = self.shape.fold(x)
        h = self.stem(h if code_map is None else torch.cat([h, code_map], dim=1))
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
    """The image encoder s_phi: the contracting half of the noise predictor, without time.

    It returns a latent and, if `code_map` is not 0, a map with so many channels that is computed at
    the level `map_level`.
    """

    def __init__(self, shape: Shape, length: int, code_map: int = 0, map_level: int = 0) -> None:
        super().__init__()
        self.shape, self.map_level = shape, map_level
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
        self.map = nn.Conv2d(widths[map_level], code_map, 1) if code_map else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the latent, shape (n, length), and the map on the first level's grid, or None."""
        h = self.stem(self.shape.fold(images))
        code_map = None
        for level, blocks in enumerate(self.levels):
            h = blocks(h)
            if self.map is not None and level == self.map_level:
                code_map = F.interpolate(self.map(h), scale_factor=2**level, mode="bilinear")
            if level < len(self.shrink):
                h = self.shrink[level](h)
        return self.latent(self.out(h).mean(dim=(2, 3))), code_map


class LabelEncoder(nn.Module):
    """The label encoder f_psi, with learned embeddings of an unknown age and an unknown sex."""

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
            Standardized; NaN if unknown.
        sex : Tensor of int64, shape (n,)
            0, 1, or 2 if unknown.
        site : Tensor of int64, shape (n,)
        """
        known = self.age(torch.nan_to_num(age)[:, None])
        aged = torch.where(torch.isnan(age)[:, None], self.no_age, known)
        return self.mix(aged + self.sex(sex) + self.site(site))


class DDAENetwork(nn.Module):
    """All networks of the DDAE, for images of `sites` sites.

    `known` and `unknown` are the lengths of the latents of the labels and of the image. `merge`
    projects both latents to one, adds them, or lets each of them scale the blocks ("separate").
    `kappa_std` is the standard deviation of the noise on the labels' latent in training. With
    `adversary`, a classifier predicts the site from the image's latents, see `reverse_gradient`.
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
        code_map: int,
        map_level: int,
        adversary: bool,
    ) -> None:
        super().__init__()
        self.merge, self.kappa_std = merge, kappa_std
        self.labels = LabelEncoder(sites, unknown if merge == "sum" else known)
        self.encoder = Encoder(shape, unknown, code_map, map_level)
        both = self.labels.no_age.numel() + unknown
        self.join = nn.Linear(both, unknown) if merge == "project" else None
        latents = [known, unknown] if merge == "separate" else [unknown]
        self.unet = UNet(shape, latents, code_map)
        self.critic = _Critic(unknown, code_map, sites) if adversary else None

    def forward(
        self, x: Tensor, times: Tensor, seen: Tensor, labels: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the prediction for `x`, and the adversary's logits of the sites or None.

        Parameters
        ----------
        x : Tensor, shape (n, 1, height, width)
            Noisy images.
        times : Tensor, shape (n,)
        seen : Tensor, shape (n, 1, height, width)
            Input of the encoder.
        labels : dict of Tensor
            ``age``, ``sex`` and ``site``, see `LabelEncoder`.
        """
        z, code_map = self.encoder(seen)
        logits = None
        if self.critic is not None:
            reversed_map = None if code_map is None else reverse_gradient(code_map)
            logits = self.critic(reverse_gradient(z), reversed_map)
        return self.predict(x, times, z, code_map, labels), logits

    def predict(
        self,
        x: Tensor,
        times: Tensor,
        z: Tensor,
        code_map: Tensor | None,
        labels: dict[str, Tensor],
    ) -> Tensor:
        """Return the prediction for `x` with the latents of the image, shape (n, 1, h, w)."""
        known = self.labels(**labels)
        if self.training and self.kappa_std:
            known = known + self.kappa_std * torch.randn_like(known)
        latents = [known, z]
        if self.merge == "sum":
            latents = [known + z]
        elif self.join is not None:
            latents = [self.join(torch.cat(latents, dim=1))]
        return self.unet(x, times, latents, code_map)


class _Critic(nn.Module):
    """Predicts the site from the latents of the image."""

    def __init__(self, length: int, code_map: int, sites: int) -> None:
        super().__init__()
        self.pixels = None
        if code_map:
            self.pixels = nn.Sequential(
                nn.Conv2d(code_map, 32, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),
                nn.SiLU(),
            )
            length += 128
        self.out = nn.Sequential(nn.Linear(length, 128), nn.SiLU(), nn.Linear(128, sites))

    def forward(self, z: Tensor, code_map: Tensor | None) -> Tensor:
        if self.pixels is not None and code_map is not None:
            h = self.pixels(code_map)
            # The means of channels show contrast, the standard deviations noise and blur.
            z = torch.cat([z, h.mean(dim=(2, 3)), h.var(dim=(2, 3)).add(1e-5).sqrt()], dim=1)
        return self.out(z)
