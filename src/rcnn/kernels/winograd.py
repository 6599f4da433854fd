"""Convolutions of 3 x 3 with a quarter of the multiplications, on a CPU.

F(4 x 4, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016),
section 4. A tile of 6 x 6 input cells gives 4 x 4 output cells. Tile and kernel are evaluated as
polynomials at five points and infinity along each axis, which makes 36 points. At each point the
convolution is a product, summed over channels: one matrix product for each point.

Letters: B images, C input channels, O output channels, (H, W) cells, (h, w) tiles of an image, T
tiles of a chunk, P cells or weights that are evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

POINTS = (0.0, 2 / 3, -2 / 3, -3 / 2, 3 / 2)
"""Points of evaluation besides infinity. In single precision (256 channels) the mean relative error
is 1e-6; with the paper's points 0, 1, -1, 2, -2 it is 6e-6, and 2e-7 for a direct sum. The last
points are the reciprocals of the first in reverse, which ``_rotated_transforms`` relies on."""

SIDE = 4
"""Output cells of a tile along each axis; its input is two cells longer, as a kernel has 3."""

CHUNK = 400
"""Number of tiles that are computed together: few enough for the cache."""


def convolve(
    cells: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "O C 3 3"],
    bias: Float[Tensor, " O"] | None = None,
) -> Float[Tensor, "B O H W"]:
    """Return the convolution with stride 1 and padding 1, in the channels-last memory format.

    The input is on a CPU. The convolution can be differentiated once.
    """
    convolved: Tensor = _Winograd.apply(cells, weight, bias)
    return convolved


def tile_grid(cells: Float[Tensor, "B C H W"]) -> tuple[int, int]:
    """Return the number of rows and of columns of tiles, 4 x 4 cells each, that cover an image."""
    height, width = cells.shape[2:]
    return -(-height // SIDE), -(-width // SIDE)


class _Transforms(NamedTuple):
    """Matrices for both axes at once; cells and points are counted row by row.

    Attributes:
        tile: from the 36 input cells of a tile to 36 points.
        kernel: from the 9 weights of a kernel to 36 points.
        output: from 36 points to the 16 output cells of a tile.
    """

    tile: Float[Tensor, "36 36"]
    kernel: Float[Tensor, "36 9"]
    output: Float[Tensor, "16 36"]


@cache
def _transforms(dtype: torch.dtype) -> _Transforms:
    """Return the matrices of the Toom-Cook algorithm, with the denominators in the kernel's."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    others = [torch.cat([points[:i], points[i + 1 :]]) for i in range(len(points))]
    scales = torch.stack([(points[i] - rest).prod() for i, rest in enumerate(others)])
    infinity = torch.eye(6, dtype=torch.float64)[-1]
    kernel = torch.vstack([points[:, None] ** torch.arange(3) / scales[:, None], infinity[-3:]])
    output = torch.column_stack([points ** torch.arange(SIDE)[:, None], infinity[-SIDE:]])
    # Coefficients of the polynomials that vanish at the other points, the lowest power first.
    rows = [F.pad(_polynomial(rest), (0, 1)) for rest in others]
    tile = torch.stack([*rows, _polynomial(points)])
    return _Transforms(*(torch.kron(one, one).to(dtype) for one in (tile, kernel, output)))


@cache
def _rotated_transforms(dtype: torch.dtype) -> _Transforms:
    """Return the matrices that use transformed kernels as if they were rotated by 180 degrees."""
    tile, kernel, output = _transforms(torch.float64)
    # The rotated polynomial of k(x) is x^2 k(1/x): its value at a point is that of k at the
    # reciprocal, up to a factor, which is multiplied into the tile's transform.
    known, wanted = kernel.flip(0), kernel.flip(1)
    factors = (known * wanted).sum(1, keepdim=True) / known.square().sum(1, keepdim=True)
    rotated = (factors * tile).flip(0), kernel, output.flip(1)
    return _Transforms(*(one.to(dtype) for one in rotated))


def _polynomial(roots: Float[Tensor, " N"]) -> Float[Tensor, " N+1"]:
    """Return the coefficients of the polynomial with these roots, the lowest power first."""
    coefficients = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution; keep the transformed kernels if the cells need a gradient."""
        transforms = _transforms(cells.dtype)
        # (O, C, 3, 3) -> (O, 9, C) -> (36, O, C)
        kernels = _evaluate(transforms.kernel, weight.permute(0, 2, 3, 1).flatten(1, 2))
        ctx.save_for_backward(cells, kernels if ctx.needs_input_grad[0] else None)
        return _convolve(cells, kernels.transpose(1, 2), bias, transforms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of cells, weight and bias, each only if it is needed.

        That of the cells is the convolution of the output's gradient with the kernels, rotated by
        180 degrees.
        """
        cells, kernels = ctx.saved_tensors
        (gradient,) = gradients
        of_cells = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_cells = _convolve(gradient, kernels, None, _rotated_transforms(cells.dtype))
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(cells, gradient)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=(0, 2, 3))
        return of_cells, of_weight, of_bias


def _convolve(
    cells: Float[Tensor, "B C H W"],
    kernels: Float[Tensor, "36 C O"],
    bias: Float[Tensor, " O"] | None,
    transforms: _Transforms,
) -> Float[Tensor, "B O H W"]:
    """Return the convolution with transformed kernels, chunk by chunk."""
    (height, width), (rows, columns) = cells.shape[2:], tile_grid(cells)
    shape = len(cells), kernels.shape[2], rows * SIDE, columns * SIDE
    convolved = torch.empty(
        shape, dtype=cells.dtype, device=cells.device, memory_format=torch.channels_last
    )
    parts = _per_tile(convolved.permute(0, 2, 3, 1))
    for images, lines in _chunks(len(cells), rows, columns):
        points = _evaluate(transforms.tile, _tiles(_with_zeros(cells[images], lines, border=1)))
        sums = torch.bmm(points, kernels)  # (36, T, O)
        part = parts[images, lines]
        result = (transforms.output @ sums.transpose(0, 1)).view(part.shape)
        if bias is None:
            part.copy_(result)
        else:
            torch.add(result, bias, out=part)
    if convolved.shape[2:] == (height, width):
        return convolved  # itself and no view, so that what follows may change it in place
    return convolved[:, :, :height, :width].clone(memory_format=torch.channels_last)


def _weight_gradient(
    cells: Float[Tensor, "B C H W"], gradient: Float[Tensor, "B O H W"]
) -> Float[Tensor, "O C 3 3"]:
    """Return the gradient of the kernels, summed over chunks."""
    channels, outputs = cells.shape[1], gradient.shape[1]
    if not len(cells):  # no chunk would write to the kernels
        return cells.new_zeros(outputs, channels, 3, 3)
    transforms = _transforms(cells.dtype)
    kernels = cells.new_empty(36, outputs, channels)
    for index, (images, lines) in enumerate(_chunks(len(cells), *tile_grid(cells))):
        points = _evaluate(transforms.tile, _tiles(_with_zeros(cells[images], lines, border=1)))
        part = _per_tile(_with_zeros(gradient[images], lines, border=0))
        # (B, h, w, 4, 4, O) -> (T, 16, O) -> (36, T, O)
        sums = _evaluate(transforms.output.t(), part.flatten(0, 2).flatten(1, 2))
        kernels.baddbmm_(sums.transpose(1, 2), points, beta=float(index > 0))
    result = transforms.kernel.t() @ kernels.transpose(0, 1)  # (O, 9, C)
    return result.view(outputs, 3, 3, channels).permute(0, 3, 1, 2)


def _tiles(cells: Float[Tensor, "B H W C"]) -> Float[Tensor, "T 36 C"]:
    """Return the tiles of padded cells; neighbours share two rows or columns of cells."""
    # (B, h, w, C, 6, 6) -> (B, h, w, 6, 6, C) -> (T, 36, C)
    tiles = cells.unfold(1, SIDE + 2, SIDE).unfold(2, SIDE + 2, SIDE).permute(0, 1, 2, 4, 5, 3)
    return tiles.flatten(0, 2).flatten(1, 2)


def _with_zeros(
    cells: Float[Tensor, "B C H W"], lines: slice, border: int
) -> Float[Tensor, "B h w C"]:
    """Return the cells of some rows of tiles and ``border`` cells around, zero outside the map."""
    height, width = cells.shape[2:]
    top, bottom = lines.start * SIDE - border, lines.stop * SIDE + border
    right = -width % SIDE + border
    inside = cells[:, :, max(top, 0) : bottom].permute(0, 2, 3, 1)
    return F.pad(inside, (0, 0, border, right, max(-top, 0), max(bottom - height, 0)))


def _per_tile(cells: Float[Tensor, "B H W O"]) -> Float[Tensor, "B h w 4 4 O"]:
    """Return a view of output cells, tile by tile."""
    parts: Float[Tensor, "B h 4 w 4 O"] = cells.unflatten(2, (-1, SIDE)).unflatten(1, (-1, SIDE))
    return parts.permute(0, 1, 3, 2, 4, 5)


def _chunks(batch: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Yield ranges of images, and of rows of tiles of each, that make up chunks."""
    lines = max(1, min(rows, CHUNK // columns))
    images = max(1, CHUNK // (rows * columns))
    for first in range(0, batch, images):
        for top in range(0, rows, lines):
            yield slice(first, first + images), slice(top, min(top + lines, rows))


def _evaluate(
    transform: Float[Tensor, "36 P"], cells: Float[Tensor, "T P C"]
) -> Float[Tensor, "36 T C"]:
    """Return a view of the values of each tile's (or kernel's) polynomial at the 36 points."""
    # One small product for each tile keeps all that it reads in the innermost cache; a single
    # large one, of so few rows, takes up to twice as long.
    return (transform @ cells).transpose(0, 1)
