"""A convolutional layer that is computed more quickly than as it is written down.

Letters: B images, C channels in, O channels out, (H, W) cells; (h, w) of them come out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.kernels.winograd import convolve, tiles_of

MOST, FEWEST = 2.0, 64
"""Winograd's way takes this many computed cells for each cell of a map at most, and this many
tiles."""

CHANNELS = 128
"""Below that Winograd's transforms take as long as the products save."""


class QuickConv2d(nn.Conv2d):
    """A layer with the parameters of another one and, up to rounding, its results.

    Args:
        layer: its parameters are taken, not copied.
        norm: what follows the layer, and becomes a part of it: its factors go into the kernels,
            which are far fewer than the cells. Gradients are the same, as the kernels that learn
            are those without the factors.
        winograd: on a CPU and in full precision, compute by
            :func:`~rcnn.kernels.winograd.convolve`,
            unless a map is so small that most of its tiles would lie outside. Only for a layer for
            which :func:`fits_winograd` is true.
    """

    def __init__(self, layer: nn.Conv2d, norm: FoldedNorm2d | None, *, winograd: bool) -> None:
        with torch.device("meta"):
            super().__init__(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]  # the stubs know pairs no better
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                layer.groups,
                bias=False,
                padding_mode=layer.padding_mode,
            )
        self.weight, self.bias = layer.weight, layer.bias
        self.winograd = winograd
        # In a tuple it is no part of this layer's state: it stands beside it under its own name.
        self._norm = () if norm is None else (norm,)
        self.train(layer.training)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O h w"]:
        """Return the convolved cells, after the norm if there is one."""
        weight, bias = self.weight, self.bias
        for norm in self._norm:
            weight, bias = norm.fold(weight, bias)
        if self.winograd and _pays(input):
            return convolve(input, weight, bias)
        convolved: Tensor = self._conv_forward(input, weight, bias)
        return convolved


class FoldedNorm2d(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision has no types
    """A fixed norm that the convolution before it has applied already.

    Args:
        norm: its buffers are taken, not copied.
    """

    def __init__(self, norm: FrozenBatchNorm2d) -> None:
        with torch.device("meta"):
            super().__init__(len(norm.weight), norm.eps)
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)

    def fold(
        self, weight: Float[Tensor, "O C _ _"], bias: Float[Tensor, " O"] | None
    ) -> tuple[Float[Tensor, "O C _ _"], Float[Tensor, " O"]]:
        """Return the parameters of a convolution that does what that and this norm would do."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return weight * scale[:, None, None, None], shift if bias is None else shift + bias * scale

    def forward(self, x: Float[Tensor, "B O H W"]) -> Float[Tensor, "B O H W"]:
        """Return the cells as they are."""
        return x


def fits_winograd(layer: nn.Conv2d) -> bool:
    """Return whether a layer can be computed Winograd's way, with enough channels for it to pay."""
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == layer.padding == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and min(layer.in_channels, layer.out_channels) >= CHANNELS
    )


def _pays(cells: Tensor) -> bool:
    if cells.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    full = cells.dtype in (torch.float32, torch.float64)
    if not full or torch.is_autocast_enabled("cpu"):
        return False
    tiles = tiles_of(cells)
    return tiles >= FEWEST and 16 * tiles <= MOST * cells[:, 0].numel()
