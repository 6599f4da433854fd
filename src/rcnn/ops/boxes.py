"""Boxes ``(x1, y1, x2, y2)``: areas, overlaps, and how they follow their image.

Letters: N and M boxes, B images; ``*n`` are any leading dimensions. Coordinates are continuous: the
width of a box is ``x2 - x1``. Sizes are (height, width).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return width times height of each box."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(
    a: Float[Tensor, "*batch N 4"], b: Float[Tensor, "*batch M 4"]
) -> Float[Tensor, "*batch N M"]:
    """Return the area that each box of ``a`` shares with each box of ``b``."""
    # One coordinate at a time is up to three times faster than pairs in the last dimension.
    ax1, ay1, ax2, ay2 = a[..., :, None, :].unbind(-1)
    bx1, by1, bx2, by2 = b[..., None, :, :].unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    return width * height


def iou(
    a: Float[Tensor, "*batch N 4"], b: Float[Tensor, "*batch M 4"]
) -> Float[Tensor, "*batch N M"]:
    """Return intersection over union of each pair of boxes; 0 for two boxes without area."""
    shared = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    # Over a tiny number instead of 1 no gradient would be finite.
    return shared / torch.where(union > 0, union, 1.0)


def coverage(
    a: Float[Tensor, "*batch N 4"], b: Float[Tensor, "*batch M 4"]
) -> Float[Tensor, "*batch N M"]:
    """Return the share of the area of each box of ``a`` that lies inside each box of ``b``."""
    whole = area(a)[..., :, None]
    return intersection(a, b) / torch.where(whole > 0, whole, 1.0)


def clip(boxes: Float[Tensor, "B *n 4"], sizes: Shaped[Tensor, "B 2"]) -> Float[Tensor, "B *n 4"]:
    """Return the part of each box that lies inside its image of (height, width) ``sizes``."""
    # (B, 2) -> (B, 1, ..., 4), as (width, height, width, height)
    limits = sizes.to(boxes.dtype).flip(-1).repeat(1, 2)
    limits = limits.view(len(sizes), *(1,) * (boxes.ndim - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


def inside(
    boxes: Float[Tensor, "N 4"], sizes: Int[Tensor, "B 2"], border: float = 0.0
) -> Bool[Tensor, "B N"]:
    """Return whether each box lies inside each image, or at most ``border`` pixels outside."""
    height, width = sizes[:, 0, None], sizes[:, 1, None]
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 >= -border) & (y1 >= -border) & (x2 <= width + border) & (y2 <= height + border)


def sides_at_least(
    boxes: Float[Tensor, "*n 4"], side: Float[Tensor, "*m"] | float
) -> Bool[Tensor, "*n"]:
    """Return whether both sides of each box are at least ``side`` long."""
    return ((boxes[..., 2] - boxes[..., 0]) >= side) & ((boxes[..., 3] - boxes[..., 1]) >= side)


def scale(
    boxes: Float[Tensor, "*batch N 4"], factors: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch N 4"]:
    """Return the boxes of images that are scaled by (vertical, horizontal) ``factors``."""
    return boxes * factors.flip(-1).repeat(*(1,) * (factors.ndim - 1), 2)[..., None, :]


def flip(boxes: Float[Tensor, "*n 4"], width: float | int) -> Float[Tensor, "*n 4"]:
    """Return the boxes of an image, ``width`` pixels wide, that is mirrored left to right."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def first_on_grid(
    boxes: Float[Tensor, "B N 4"], wanted: Bool[Tensor, "B N"], stride: int
) -> Bool[Tensor, "B N"]:
    """Return which boxes are the first of those that round to the same cells of a feature map.

    Args:
        boxes: boxes in pixels, without negative coordinates.
        wanted: boxes that take part.
        stride: pixels per cell.
    """
    cells = (boxes / stride).round().long()
    base = 1 << 15  # more cells than a side of any feature map has
    x1, y1, x2, y2 = cells.unbind(-1)
    keys = torch.where(wanted, ((x1 * base + y1) * base + x2) * base + y2, -1)
    ordered = keys.sort(dim=1, stable=True)
    new = torch.ones_like(wanted)
    new[:, 1:] = ordered.values[:, 1:] != ordered.values[:, :-1]
    return torch.zeros_like(wanted).scatter(1, ordered.indices, new) & wanted


def full_precision(tensor: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return a tensor in float32, or unchanged if it is float64.

    Under mixed precision the outputs of the network have 8 or 11 significant bits: too few for a
    coordinate of a thousand pixels, or for a sum of many terms.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
