"""Anchors: reference boxes of several sizes and shapes at every cell of a feature map.

Letters: T templates of a cell (ordered by size, then ratio), (h, w) cells of a map, A = h w T
anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Rounding = Literal["none", "nearest", "caffe"]
"""How the corners of the templates are rounded, see ``templates``."""


def templates(
    sizes: Sequence[float],
    ratios: Sequence[float],
    rounding: Rounding = "none",
    stride: float = 16.0,
) -> Float[Tensor, "T 4"]:
    """Return the anchors of one cell, around its centre at (0, 0).

    A size s and a ratio r = height / width give ``h = s sqrt(r)``, ``w = s / sqrt(r)``
    (Faster R-CNN, section 3.1.1). They are ordered by size, then ratio.

    Args:
        sizes: square roots of the areas, in pixels.
        ratios: heights divided by widths.
        rounding: ``"none"``; ``"nearest"`` rounds the corners, as torchvision does; ``"caffe"``
            first rounds the sides of a stride x stride window of each ratio, then enlarges them,
            as the authors' released code does.
        stride: pixels per cell, used by ``"caffe"`` alone.
    """
    size = torch.tensor(sizes, dtype=torch.float64)[:, None]
    ratio = torch.tensor(ratios, dtype=torch.float64)[None, :]
    if rounding == "caffe":
        window_width = torch.round(stride / ratio.sqrt())
        window_height = torch.round(window_width * ratio)
        width, height = window_width * size / stride, window_height * size / stride
    else:
        width, height = size / ratio.sqrt(), size * ratio.sqrt()
    # (sizes, ratios) -> (T, 4)
    halves = torch.stack([width.flatten(), height.flatten()], dim=-1) / 2
    boxes = torch.cat([-halves, halves], dim=-1)
    return (boxes.round() if rounding == "nearest" else boxes).float()


def tile(
    cell: Float[Tensor, "T 4"],
    grid: tuple[int, int],
    stride: tuple[float, float],
    offset: float = 0.5,
) -> Float[Tensor, "A 4"]:
    """Return the templates around the centre of every cell, ordered by y, x, template.

    Args:
        cell: templates around (0, 0), in pixels.
        grid: (height, width) of the feature map, in cells.
        stride: (vertical, horizontal) distance of the centres, in pixels.
        offset: position of the centre in its cell, in strides; 0.5 is the middle.
    """
    ys = (torch.arange(grid[0], device=cell.device) + offset) * stride[0]
    xs = (torch.arange(grid[1], device=cell.device) + offset) * stride[1]
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    centres = torch.stack([x, y, x, y], dim=-1).to(cell.dtype)
    # (h, w, 1, 4) + (T, 4) -> (h w T, 4)
    return (centres[:, :, None] + cell).flatten(0, 2)
