"""Building blocks shared by the networks of the suite.

The grouped ones train several small networks of one shape as one: group g of every layer sees only
group g of the layer before, so the networks never mix, and one call fills the processor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Network = TypeVar("Network", bound=nn.Module)


def at_rest(network: Network) -> Network:
    """Return a network ready to be applied: on the CPU, in evaluation mode, without gradients.

    Its weights are in channels-last memory, in which a CPU convolves fastest; all maps follow them.
    """
    network = network.cpu().to(memory_format=torch.channels_last)
    return network.eval().requires_grad_(False)


def space_to_depth(images: Tensor, grid: int) -> Tensor:
    """Fold blocks of pixels into channels, a stem without parameters.

    Parameters
    ----------
    images : Tensor, shape (n, groups, height, width)
        Zeros are added below and to the right until blocks fill a square of `grid` by `grid`.
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
    """A 3 x 3 convolution, batch normalization and ReLU in each of several networks.

    Parameters
    ----------
    groups : int
        Number of networks.
    inputs, outputs : int
        Channels of one network.
    stride : int
        Step of the convolution.
    """

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
    """One linear layer in each of several networks: (n, groups, inputs) to (n, groups, outputs)."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(groups, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(groups, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        return torch.einsum("ngi,gio->ngo", x, self.weight) + self.bias


def pad_to(images: Tensor, multiple: int) -> Tensor:
    """Add zeros below and to the right until both sides are multiples of a number.

    Parameters
    ----------
    images : Tensor, shape (n, channels, height, width)
    multiple : int
        1 leaves the images as they are.
    """
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def norm(channels: int) -> nn.GroupNorm:
    """Return a group normalization of at most 8 groups that divide the channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the layer with weights and bias 0, so that what it feeds starts without it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ConditionedBlock(nn.Module):
    """Residual block that time shifts and scales and that latents scale.

    After the second normalization ``h (1 + scale_t) + shift_t`` from the time, then
    ``h (1 + scale_z)`` from each latent in turn, as in the diffusion autoencoder (Preechakul 2022,
    arXiv 2111.15640). The last convolution starts at zero: the block starts as its shortcut.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    time : int
        Length of the time's embedding; 0 for a block without time.
    latents : sequence of int
        Lengths of the latents, none for a block without.
    dropout : float
        Before the last convolution.
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
        """Map (n, inputs, h, w) to (n, outputs, h, w).

        Parameters
        ----------
        x : Tensor, shape (n, inputs, h, w)
        time : Tensor, shape (n, time), or None
            Embedding of the time.
        latents : sequence of Tensor, each of shape (n, length)
        """
        h = self.norm(self.first(x))
        # One scale and one shift for all conditions: every pass over a map costs time.
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
    """Single-head attention between all pixels of a map, added to it (Vaswani 2017).

    Parameters
    ----------
    channels : int
        Of the map.
    """

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
    """Return sines and cosines of the times at geometric frequencies (Vaswani 2017; Ho 2020).

    Parameters
    ----------
    times : Tensor, shape (n,)
        Such as 0 to 1000.
    length : int
        Even.

    Returns
    -------
    Tensor of float32, shape (n, length)
    """
    half = length // 2
    steps = torch.arange(half, device=times.device, dtype=torch.float32)
    angles = times.float()[:, None] * torch.exp(-math.log(10_000) / half * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient points the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def reverse_gradient(x: Tensor) -> Tensor:
    """Return `x`; its gradient is turned round (Ganin 2015, arXiv 1409.7495)."""
    return _Reverse.apply(x)
