"""Networks of the style-encoding GAN: generator, style encoder, mapping network, discriminator.

The architecture of StarGAN v2 (Choi 2020, arXiv 1912.01865, section 2 and its appendix) with one
domain, as used by Liu 2021 and Liu 2023, implemented from the description in the papers. Images
have the shape (n, 1, height, width) and are in [-1, 1]. Their sides are multiples of
`Sizes.multiple`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BOTTLENECK = 16
"""Side of the generator's smallest feature map, as published, for any size of the image."""
SMALLEST = 4
"""Side of the last feature map of the style encoder and the discriminator, as published."""
LATENT = 16
"""Length of the mapping network's random input, as published."""
WIDEST = 8
"""Largest number of channels of a layer, relative to the first layer."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks.

    `side` is the longer side of the images in pixels, `style` the length of a style code. Each
    halving of the map doubles its `channels`, up to `WIDEST` times. `baselines.style_gan.method`
    describes `fold` and `field`.
    """

    side: int
    channels: int
    style: int
    fold: int
    field: int = 0

    def halvings(self, smallest: int) -> int:
        """Return the number of halvings after which the side of a map is about `smallest`."""
        return max(1, round(math.log2(self.side / self.fold / smallest)))

    @property
    def multiple(self) -> int:
        """Number of pixels that both sides of an image must be a multiple of."""
        return self.fold * 2 ** self.halvings(SMALLEST)

    def widths(self, halvings: int) -> list[int]:
        """Return the channels of each map for a number of halvings."""
        return [self.channels * min(2**level, WIDEST) for level in range(halvings + 1)]


class InstanceNorm(nn.Module):
    """Instance normalization with a learned scale and shift. It ignores the style."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, style: Tensor | None) -> Tensor:
        """Normalize each map of each image."""
        return F.group_norm(x, x.shape[1], self.weight, self.bias)


class AdaIN(nn.Module):
    """Instance normalization whose scale and shift come from the style code (Huang 2017).

    Scale and shift are polynomials of the position with the degree `field`, because the bias field
    of a scanner depends on the position.
    """

    def __init__(self, channels: int, style: int, field: int) -> None:
        super().__init__()
        self.field = field
        self.affine = nn.Linear(style, 2 * channels * len(exponents(field)))

    def forward(self, x: Tensor, style: Tensor | None) -> Tensor:
        """Normalize x (n, channels, h, w) and apply the style (n, length)."""
        channels, sides = x.shape[1], x.shape[2:]
        coefficients = self.affine(style).unflatten(1, (2 * channels, -1))
        fields = polynomials(self.field, x).flatten(1).T @ coefficients.transpose(1, 2)
        scale, shift = fields.transpose(1, 2).unflatten(2, sides).chunk(2, dim=1)
        return torch.addcmul(shift, F.group_norm(x, channels), 1 + scale)


def exponents(degree: int) -> list[tuple[int, int]]:
    """Return the powers of row and column in all terms of a polynomial of this degree."""
    return [(i, total - i) for total in range(degree + 1) for i in range(total + 1)]


def polynomials(degree: int, like: Tensor) -> Tensor:
    """Return all terms at the pixels of a map, with positions from -1 to 1: (terms, h, w)."""
    rows, columns = (
        torch.linspace(-1, 1, side, device=like.device, dtype=like.dtype)
        for side in like.shape[-2:]
    )
    return torch.stack([rows[:, None] ** i * columns**j for i, j in exponents(degree)])


class Residual(nn.Module):
    """A pre-activation residual block that resizes the map between its convolutions.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    norms : pair of Module or None
        Normalizations before the two activations, called with the map and the style.
    scale : {0.5, 1, 2}
        Change of the sides of the map, by average pooling or by repetition of pixels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norms: tuple[nn.Module, nn.Module] | None = None,
        scale: float = 1,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms or ())
        self.scale = scale
        self.first = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.second = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = (
            nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)
        )

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, scale * h, scale * w)."""
        h = self._activate(0, x, style)
        if self.scale > 1:
            h = F.interpolate(h, scale_factor=2)
        h = self.first(h)
        if self.scale < 1:
            # A 1 x 1 convolution commutes with resizing, so the skip connection shrinks first.
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        x = self.skip(x)
        if self.scale > 1:
            x = F.interpolate(x, scale_factor=2)
        h = self.second(self._activate(1, h, style))
        # The division keeps the variance of the sum.
        return (x + h) / math.sqrt(2)

    def _activate(self, which: int, x: Tensor, style: Tensor | None) -> Tensor:
        if self.norms:
            x = self.norms[which](x, style)
        return F.leaky_relu(x, 0.2)


class Generator(nn.Module):
    """Blocks with instance normalization for the content, then adaptive ones for the style."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        widths = sizes.widths(sizes.halvings(BOTTLENECK))
        last, pairs = widths[-1], list(pairwise(widths))

        def plain(a: int, b: int, scale: float = 1) -> Residual:
            return Residual(a, b, (InstanceNorm(a), InstanceNorm(a)), scale)

        def styled(a: int, b: int, scale: float = 1) -> Residual:
            norms = (AdaIN(a, sizes.style, sizes.field), AdaIN(a, sizes.style, sizes.field))
            return Residual(a, b, norms, scale)

        self.fold = sizes.fold
        self.stem = nn.Conv2d(sizes.fold**2, widths[0], 3, padding=1)
        self.content = nn.Sequential(
            *[plain(a, b, 0.5) for a, b in pairs], plain(last, last), plain(last, last)
        )
        self.restyle = nn.ModuleList(
            [styled(last, last), styled(last, last), *[styled(b, a, 2) for a, b in pairs[::-1]]]
        )
        self.norm = InstanceNorm(widths[0])
        self.head = nn.Conv2d(widths[0], sizes.fold**2, 3, padding=1)

    def forward(self, images: Tensor, style: Tensor) -> Tensor:
        """Return the images (n, 1, h, w) in the given styles (n, length)."""
        x = self.content(self.stem(F.pixel_unshuffle(images, self.fold)))
        for block in self.restyle:
            x = block(x, style)
        return F.pixel_shuffle(self.head(F.leaky_relu(self.norm(x, None), 0.2)), self.fold)


class Encoder(nn.Sequential):
    """The style encoder and, with one output, the discriminator; without normalization."""

    def __init__(self, sizes: Sizes, outputs: int) -> None:
        widths = sizes.widths(sizes.halvings(SMALLEST))
        blocks = [Residual(a, b, scale=0.5) for a, b in pairwise(widths)]
        super().__init__(
            nn.PixelUnshuffle(sizes.fold),
            nn.Conv2d(sizes.fold**2, widths[0], 3, padding=1),
            *blocks,
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool2d(SMALLEST),
            nn.Conv2d(widths[-1], widths[-1], SMALLEST),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(widths[-1], outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 1, h, w) to vectors (n, outputs) in full precision."""
        return super().forward(images).float()


class Mapping(nn.Sequential):
    """The mapping network, which makes style codes of random numbers."""

    def __init__(self, style: int) -> None:
        hidden = 8 * style
        layers: list[nn.Module] = [nn.Linear(LATENT, hidden), nn.ReLU()]
        for _ in range(6):
            layers += [nn.Linear(hidden, hidden), nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, style))

    def forward(self, latents: Tensor) -> Tensor:
        """Map random numbers (n, `LATENT`) to codes (n, style) in full precision."""
        return super().forward(latents).float()


class Networks(nn.Module):
    """All four networks as one model."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.generator = Generator(sizes)
        self.style = Encoder(sizes, sizes.style)
        self.mapping = Mapping(sizes.style)
        self.discriminator = Encoder(sizes, 1)
        self.apply(_initialize)

    def render(self, images: Tensor, style: Tensor, mask: Tensor) -> Tensor:
        """Return the images in the given styles. Outside the mask they do not change."""
        return torch.where(mask, self.generator(images, style), images)


def _initialize(module: nn.Module) -> None:
    """Set the initial weights of He, as published, and the biases to 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
