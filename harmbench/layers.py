"""Building blocks shared by the networks of the suite.

The grouped ones train several small networks of one shape as one: group g of every layer sees only
group g of the layer before, so the networks never mix, and one call fills the processor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def space_to_depth(images: Tensor, grid: int) -> Tensor:
    """Fold blocks of pixels into channels, a stem without parameters.

    Parameters
    ----------
    images : Tensor, shape (n, height, width)
        Zeros are added below and to the right until blocks fill a square of `grid` by `grid`.
    grid : int
        Number of blocks along a side.

    Returns
    -------
    Tensor, shape (n, block * block, grid, grid)
        With ``block = ceil(max(height, width) / grid)``.
    """
    height, width = images.shape[-2:]
    block = math.ceil(max(height, width) / grid)
    padding = (0, block * grid - width, 0, block * grid - height)
    return F.pixel_unshuffle(F.pad(images, padding).unsqueeze(1), block)


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
