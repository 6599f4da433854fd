"""A convolutional layer that takes fewer multiplications where that pays.

Letters: B images, C channels in, O channels out, (H, W) cells.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.ops.winograd import convolve, tiles_of

MOST, FEWEST = 2.0, 64
"""It takes this many computed cells for each cell of a map at most, and this many tiles."""

CHANNELS = 128
"""Below that the transforms take as long as the products save."""


class WinogradConv2d(nn.Conv2d):
    """A layer of stride 1 and 3 x 3 cells, with the parameters of another one.

    On a CPU and in full precision it computes by :func:`~rcnn.ops.winograd.convolve`, unless a map
    is so small that most of its tiles would lie outside; else as any other layer.

    Args:
        layer: for which :meth:`fits` is true; its parameters are taken, not copied.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        with torch.device("meta"):
            super().__init__(layer.in_channels, layer.out_channels, 3, padding=1, bias=False)
        self.weight, self.bias = layer.weight, layer.bias
        self.train(layer.training)

    @staticmethod
    def fits(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Return whether a layer can be computed so, and has enough channels for it to pay."""
        return (
            type(layer) is nn.Conv2d
            and layer.kernel_size == (3, 3)
            and layer.stride == layer.padding == layer.dilation == (1, 1)
            and layer.groups == 1
            and layer.padding_mode == "zeros"
            and min(layer.in_channels, layer.out_channels) >= CHANNELS
        )

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O H W"]:
        """Return the convolved cells."""
        if not _pays(input):
            return super().forward(input)
        return convolve(input, self.weight, self.bias)


def _pays(cells: Tensor) -> bool:
    if cells.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    full = cells.dtype in (torch.float32, torch.float64)
    if not full or torch.is_autocast_enabled("cpu"):
        return False
    tiles = tiles_of(cells)
    return tiles >= FEWEST and 16 * tiles <= MOST * cells[:, 0].numel()
