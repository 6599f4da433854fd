"""Convolutions with fewer multiplications, and with the fixed batch norm behind them folded in.

Letters: B images, C input channels, O output channels, (H, W) input cells, (h, w) output cells.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.kernels.winograd import convolve, tile_grid

MIN_CHANNELS = 128
"""With fewer channels Winograd's transforms take as long as the products save."""

MIN_TILES = 64
"""With fewer tiles the transform of the weights takes longer than the products save."""

MAX_PADDING_FACTOR = 2.0
"""Largest ratio of the cells that the tiles cover to the cells of the map."""


class FastConv2d(nn.Conv2d):
    """A convolution with the parameters of another one and, up to rounding, its results.

    Args:
        layer: convolution that the parameters are taken from, without a copy.
        norm: fixed batch norm that follows the layer, folded into its weights, which are far fewer
            than the cells. The trained weights are those before the fold.
        winograd: compute by ``rcnn.kernels.winograd.convolve`` where that pays; only for a layer
            that ``fits_winograd``.
    """

    def __init__(self, layer: nn.Conv2d, norm: FoldedNorm2d | None, *, winograd: bool) -> None:
        with torch.device("meta"):
            super().__init__(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]  # torch's stubs allow no pairs here
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                layer.groups,
                bias=False,
                padding_mode=layer.padding_mode,
            )
        self.weight, self.bias = layer.weight, layer.bias
        self.winograd = winograd
        # A tuple hides the norm from this layer's state: it stays a module of its own beside it.
        self._norm = () if norm is None else (norm,)
        self.train(layer.training)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O h w"]:
        """Return the convolved cells, after the norm if there is one."""
        weight, bias = self.weight, self.bias
        for norm in self._norm:
            weight, bias = norm.fold(weight, bias)
        if self.winograd and _winograd_pays(input):
            return convolve(input, weight, bias)
        convolved: Tensor = self._conv_forward(input, weight, bias)
        return convolved


class FoldedNorm2d(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision has no types
    """A fixed batch norm that the convolution before it has applied already.

    Args:
        norm: batch norm that the buffers are taken from, without a copy.
    """

    def __init__(self, norm: FrozenBatchNorm2d) -> None:
        with torch.device("meta"):
            super().__init__(len(norm.weight), norm.eps)
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)

    def fold(
        self, weight: Float[Tensor, "O C _ _"], bias: Float[Tensor, " O"] | None
    ) -> tuple[Float[Tensor, "O C _ _"], Float[Tensor, " O"]]:
        """Return weight and bias of the convolution that equals the given one and this norm."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return weight * scale[:, None, None, None], shift if bias is None else shift + bias * scale

    def forward(self, x: Float[Tensor, "B O H W"]) -> Float[Tensor, "B O H W"]:
        """Return the cells unchanged."""
        return x


def fits_winograd(layer: nn.Conv2d) -> bool:
    """Return whether Winograd's algorithm can compute a layer, and has enough channels to pay."""
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == layer.padding == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and min(layer.in_channels, layer.out_channels) >= MIN_CHANNELS
    )


def _winograd_pays(cells: Tensor) -> bool:
    """Return whether the cells are on a CPU, in full precision, and fill enough tiles."""
    if cells.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if cells.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"):
        return False
    rows, columns = tile_grid(cells)
    tiles = len(cells) * rows * columns
    return tiles >= MIN_TILES and 16 * tiles <= MAX_PADDING_FACTOR * cells[:, 0].numel()
