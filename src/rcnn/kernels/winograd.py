"""Convolutions of 3 x 3 with a quarter of the multiplications, on a CPU.

F(4 x 4, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016),
section 4. A tile of 6 x 6 cells gives 4 x 4 cells of the output. Both the tile and the kernel are
evaluated as polynomials at five points and infinity along each axis, which makes 36 places. There a
convolution is one product, summed over channels, and so one matrix product for each place.

Letters: B images, C channels in, O channels out, (H, W) cells, (h, w) tiles, T of them in a piece.
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
"""Before infinity. In single precision a result is off by 1e-6 of its size in the mean (256
channels), with the paper's points 0, 1, -1, 2, -2 by 6e-6; a direct sum by 2e-7. The last ones are
the first ones' reciprocals, from behind, which :func:`_turned` makes use of."""

SIDE = 4
"""Of a tile's part of the output; its input is two cells wider, as a kernel is 3 cells wide."""

PIECE = 400
"""Tiles that are looked at together: few enough for the cache."""


def convolve(
    cells: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "O C 3 3"],
    bias: Float[Tensor, " O"] | None = None,
) -> Float[Tensor, "B O H W"]:
    """Convolve with stride 1 and one row of zeros around the cells; the result is channels last.

    It can be differentiated once.
    """
    convolved: Tensor = _Winograd.apply(cells, weight, bias)
    return convolved


def tiles_of(cells: Float[Tensor, "B C H W"]) -> int:
    """Return how many tiles of 4 x 4 cells cover all images."""
    rows, columns = _grid(cells)
    return len(cells) * rows * columns


class _Transforms(NamedTuple):
    """Of both axes at once, for cells and places that are counted row by row."""

    tile: Float[Tensor, "36 36"]
    kernel: Float[Tensor, "36 9"]
    output: Float[Tensor, "16 36"]


@cache
def _transforms(dtype: torch.dtype) -> _Transforms:
    """Return the matrices of Toom and Cook's algorithm, with the denominators in the kernel's."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    others = [torch.cat([points[:i], points[i + 1 :]]) for i in range(len(points))]
    scales = torch.stack([(points[i] - rest).prod() for i, rest in enumerate(others)])
    infinity = torch.eye(6, dtype=torch.float64)[-1]
    kernel = torch.vstack([points[:, None] ** torch.arange(3) / scales[:, None], infinity[-3:]])
    output = torch.column_stack([points ** torch.arange(SIDE)[:, None], infinity[-SIDE:]])
    # Coefficients of the polynomials that vanish at the other points, the lowest power first.
    rows = [F.pad(_with_roots(rest), (0, 1)) for rest in others]
    tile = torch.stack([*rows, _with_roots(points)])
    return _Transforms(*(torch.kron(one, one).to(dtype) for one in (tile, kernel, output)))


@cache
def _turned(dtype: torch.dtype) -> _Transforms:
    """Return the matrices for kernels that were transformed as they are and serve turned by half.

    Turned, the polynomial k(x) is x^2 k(1/x): at a point it is worth what the other is worth at the
    reciprocal, up to a factor, which goes into the tile's transform here.
    """
    tile, kernel, output = _transforms(torch.float64)
    known, wanted = kernel.flip(0), kernel.flip(1)
    factors = (known * wanted).sum(1, keepdim=True) / known.square().sum(1, keepdim=True)
    places = (factors * tile).flip(0), kernel, output.flip(1)
    return _Transforms(*(one.to(dtype) for one in places))


def _with_roots(roots: Float[Tensor, " N"]) -> Float[Tensor, " N+1"]:
    coefficients = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        transforms = _transforms(cells.dtype)
        # (O, C, 3, 3) -> (O, 9, C) -> (36, O, C)
        kernels = _at_places(transforms.kernel, weight.permute(0, 2, 3, 1).flatten(1, 2))
        ctx.save_for_backward(cells, kernels if ctx.needs_input_grad[0] else None)
        return _convolve(cells, kernels.transpose(1, 2), bias, transforms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cells, kernels = ctx.saved_tensors
        of_cells = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:  # a convolution with the kernels turned by half
            of_cells = _convolve(gradients[0], kernels, None, _turned(cells.dtype))
        if ctx.needs_input_grad[1]:
            of_weight = _gradient_of_weight(cells, gradients[0])
        if ctx.needs_input_grad[2]:
            of_bias = gradients[0].sum(dim=(0, 2, 3))
        return of_cells, of_weight, of_bias


def _convolve(
    cells: Float[Tensor, "B C H W"],
    kernels: Float[Tensor, "36 C O"],
    bias: Float[Tensor, " O"] | None,
    transforms: _Transforms,
) -> Float[Tensor, "B O H W"]:
    (height, width), (rows, columns) = cells.shape[2:], _grid(cells)
    shape = len(cells), kernels.shape[2], rows * SIDE, columns * SIDE
    convolved = torch.empty(
        shape, dtype=cells.dtype, device=cells.device, memory_format=torch.channels_last
    )
    parts = _parts(convolved.permute(0, 2, 3, 1))
    for images, lines in _pieces(cells):
        piece = _at_places(transforms.tile, _tiles(cells[images], lines))
        sums = torch.bmm(piece, kernels)  # (36, T, O)
        part = parts[images, lines]
        result = (transforms.output @ sums.transpose(0, 1)).view(part.shape)
        if bias is None:
            part.copy_(result)
        else:
            torch.add(result, bias, out=part)
    if convolved.shape[2:] == (height, width):
        return convolved  # itself and no view, so that what follows may change it in place
    return convolved[:, :, :height, :width].clone(memory_format=torch.channels_last)


def _gradient_of_weight(
    cells: Float[Tensor, "B C H W"], gradient: Float[Tensor, "B O H W"]
) -> Float[Tensor, "O C 3 3"]:
    channels, outputs = cells.shape[1], gradient.shape[1]
    if not len(cells):  # no piece would write to the kernels
        return cells.new_zeros(outputs, channels, 3, 3)
    transforms = _transforms(cells.dtype)
    kernels = cells.new_empty(36, outputs, channels)
    for index, (images, lines) in enumerate(_pieces(cells)):
        piece = _at_places(transforms.tile, _tiles(cells[images], lines))
        part = _parts(_with_zeros(gradient[images], lines, border=0))
        # (B, h, w, 4, 4, O) -> (T, 16, O) -> (36, T, O)
        sums = _at_places(transforms.output.t(), part.flatten(0, 2).flatten(1, 2))
        kernels.baddbmm_(sums.transpose(1, 2), piece, beta=float(index > 0))
    made = transforms.kernel.t() @ kernels.transpose(0, 1)  # (O, 9, C)
    return made.view(outputs, 3, 3, channels).permute(0, 3, 1, 2)


def _tiles(cells: Float[Tensor, "B C H W"], lines: slice) -> Float[Tensor, "T 36 C"]:
    """Return some rows of tiles; those beside each other share two rows or columns of cells."""
    inside = _with_zeros(cells, lines, border=1)
    # (B, h, w, C, 6, 6) -> (B, h, w, 6, 6, C) -> (T, 36, C)
    tiles = inside.unfold(1, SIDE + 2, SIDE).unfold(2, SIDE + 2, SIDE).permute(0, 1, 2, 4, 5, 3)
    return tiles.flatten(0, 2).flatten(1, 2)


def _with_zeros(
    cells: Float[Tensor, "B C H W"], lines: slice, border: int
) -> Float[Tensor, "B h w C"]:
    """Return the cells that some rows of tiles lie on, with zeros where there are none."""
    height, width = cells.shape[2:]
    top, bottom = lines.start * SIDE - border, lines.stop * SIDE + border
    right = -width % SIDE + border
    inside = cells[:, :, max(top, 0) : bottom].permute(0, 2, 3, 1)
    return F.pad(inside, (0, 0, border, right, max(-top, 0), max(bottom - height, 0)))


def _parts(cells: Float[Tensor, "B H W O"]) -> Float[Tensor, "B h w 4 4 O"]:
    """Return a view of what tiles make of the output."""
    parts: Float[Tensor, "B h 4 w 4 O"] = cells.unflatten(2, (-1, SIDE)).unflatten(1, (-1, SIDE))
    return parts.permute(0, 1, 3, 2, 4, 5)


def _grid(cells: Float[Tensor, "B C H W"]) -> tuple[int, int]:
    """Return how many rows and columns of tiles cover an image."""
    height, width = cells.shape[2:]
    return -(-height // SIDE), -(-width // SIDE)


def _pieces(cells: Float[Tensor, "B C H W"]) -> Iterator[tuple[slice, slice]]:
    """Go through images, and rows of tiles of each, a few at a time."""
    rows, columns = _grid(cells)
    lines = max(1, min(rows, PIECE // columns))
    images = max(1, PIECE // (rows * columns))
    for first in range(0, len(cells), images):
        for top in range(0, rows, lines):
            yield slice(first, first + images), slice(top, min(top + lines, rows))


def _at_places(
    transform: Float[Tensor, "36 P"], cells: Float[Tensor, "T P C"]
) -> Float[Tensor, "36 T C"]:
    """Return a view of what P cells (or weights) of each tile are worth at the 36 places.

    One small product for each tile keeps all that it reads in the innermost cache; a single large
    one, of so few rows, takes up to twice as long.
    """
    return (transform @ cells).transpose(0, 1)
