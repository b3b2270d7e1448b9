"""Building blocks shared by the networks of the suite.

The grouped layers train several small networks of the same shape as one network. Group g of a layer
reads only group g of the previous layer, so the networks never mix, and one call uses the processor
fully.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Network = TypeVar("Network", bound=nn.Module)


def for_inference(network: Network) -> Network:
    """Return the network on the CPU, in evaluation mode and without gradients.

    Its weights are in channels-last memory, which makes convolutions on a CPU fastest.
    """
    network = network.cpu().to(memory_format=torch.channels_last)
    return network.eval().requires_grad_(False)


def space_to_depth(images: Tensor, grid: int) -> Tensor:
    """Move blocks of pixels into channels.

    Parameters
    ----------
    images : Tensor, shape (n, groups, height, width)
        They are padded with zeros below and to the right to a square of `grid` by `grid` blocks.
    grid : int
        Number of blocks along a side.

    Returns
    -------
    Tensor, shape (n, groups * block * block, grid, grid)
        In channels-last memory, with ``block = ceil(max(height, width) / grid)``.
    """
    n, groups, height, width = images.shape
    block = math.ceil(max(height, width) / grid)
    padded = F.pad(images, (0, block * grid - width, 0, block * grid - height))
    blocks = padded.view(n, groups, grid, block, grid, block)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(n, grid, grid, -1).permute(0, 3, 1, 2)


class GroupedConv(nn.Module):
    """A 3 x 3 convolution, batch normalization and ReLU in each of several networks (groups)."""

    def __init__(self, groups: int, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            groups * inputs, groups * outputs, 3, stride, padding=1, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(groups * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, groups * inputs, h, w) to (n, groups * outputs, h / stride, w / stride)."""
        return F.relu(self.norm(self.conv(x)))


class GroupedLinear(nn.Module):
    """One linear layer in each of several networks (groups)."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(groups, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(groups, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, groups, inputs) to (n, groups, outputs)."""
        return torch.einsum("ngi,gio->ngo", x, self.weight) + self.bias


def pad_to(images: Tensor, multiple: int) -> Tensor:
    """Pad images (n, channels, h, w) with zeros below and to the right to multiples of a number."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def norm(channels: int) -> nn.GroupNorm:
    """Return a group normalization with at most 8 groups."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the layer with weights and bias 0, so that it contributes nothing at the start."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ConditionedBlock(nn.Module):
    """Residual block that is scaled and shifted by the time and scaled by latents.

    After the second normalization, the time gives ``h (1 + scale_t) + shift_t``; then each latent
    gives ``h (1 + scale_z)``, as in the diffusion autoencoder (Preechakul 2022, arXiv 2111.15640).
    The last convolution starts at zero, so that the block starts as its shortcut.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    time : int
        Length of the embedding of the time; 0 for a block without time.
    latents : sequence of int
        Lengths of the latents.
    dropout : float
        Probability of dropout before the last convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        time: int = 0,
        latents: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.first = nn.Sequential(
            norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.norm = norm(outputs)
        self.time = nn.Linear(time, 2 * outputs) if time else None
        self.latents = nn.ModuleList(nn.Linear(length, outputs) for length in latents)
        last = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.last = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), last)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(
        self, x: Tensor, time: Tensor | None = None, latents: Sequence[Tensor] = ()
    ) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h, w), with embeddings and latents (n, length)."""
        h = self.norm(self.first(x))
        # All conditions are joined into one scale and one shift, since passes over a map are slow.
        scale, shift = x.new_ones(()), None
        if self.time is not None and time is not None:
            grow, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
            scale = 1 + grow
        for layer, latent in zip(self.latents, latents, strict=True):
            by = 1 + layer(F.silu(latent))[:, :, None, None]
            scale = scale * by
            shift = None if shift is None else shift * by
        if shift is not None:
            h = torch.addcmul(shift, h, scale)
        elif self.latents:
            h = h * scale
        return self.shortcut(x) + self.last(h)


class SelfAttention(nn.Module):
    """Single-head attention between all pixels of a map, with a residual (Vaswani 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape."""
        tokens = self.project(self.norm(x)).flatten(2).transpose(1, 2)
        query, key, value = tokens.chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.transpose(1, 2).reshape(x.shape))


def embed_time(times: Tensor, length: int) -> Tensor:
    """Return sines and cosines of times (n,) at geometric frequencies (Vaswani 2017; Ho 2020).

    The result is float32 of shape (n, length), with an even length.
    """
    half = length // 2
    steps = torch.arange(half, device=times.device, dtype=torch.float32)
    angles = times.float()[:, None] * torch.exp(-math.log(10_000) / half * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _Reverse(torch.autograd.Function):
    """The identity with a negated gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def reverse_gradient(x: Tensor) -> Tensor:
    """Return `x` with a negated gradient (Ganin 2015, arXiv 1409.7495)."""
    return _Reverse.apply(x)
