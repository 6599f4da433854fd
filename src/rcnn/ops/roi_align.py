"""RoIAlign (Mask R-CNN, section 3), with a fast backward pass on a CPU, and differentiable in RoIs.

Letters: B images, R RoIs per image, C channels, (h, w) cells, S side of the output.

Torchvision's kernel adds every sample's gradient to four cells, one after another. But bilinear
samples on a grid are separable: a pooled map is ``rows @ features @ columns``, with the weights of
the cells in each bin as rows and columns, and its gradient is two matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
import torchvision.ops
from jaxtyping import Float
from torch import Tensor

DENSE_CELLS = 3000
"""Larger maps are left to torchvision: the products run over all cells, the kernel over a RoI's."""


def align_rois(
    features: Float[Tensor, "B C h w"],
    rois: Float[Tensor, "B R 4"],
    size: int,
    scale: float,
    ratio: int,
    aligned: bool = False,
) -> Float[Tensor, "B*R C S S"]:
    """Pool every RoI from its image; the values are torchvision's.

    Gradients flow into the RoIs if they require them, which torchvision's operator cannot do.

    Args:
        features: one level.
        rois: in pixels.
        size: S.
        scale: cells per pixel.
        ratio: samples per bin and axis; 0: as many as the bin has cells.
        aligned: a cell's value lies at its middle.

    Raises:
        ValueError: if gradients shall flow into the RoIs and ``ratio`` is 0: the number of samples
            would change with a RoI's size.
    """
    if rois.requires_grad:
        return _separable(features, rois, size, scale, ratio, aligned)
    dense = features.shape[2] * features.shape[3] <= DENSE_CELLS and ratio > 0
    if features.device.type == "cpu" and features.requires_grad and dense:
        pooled: Tensor = _RoIAlign.apply(features, rois, size, scale, ratio, aligned)
        return pooled
    return _kernel(features, rois, size, scale, ratio, aligned)


def _kernel(
    features: Tensor, rois: Tensor, size: int, scale: float, ratio: int, aligned: bool
) -> Tensor:
    images = torch.arange(len(rois), device=rois.device, dtype=rois.dtype)
    # (B, R, 4) -> (B R, 5), as (image, x1, y1, x2, y2)
    listed = torch.cat([images[:, None, None].expand(-1, rois.shape[1], 1), rois], dim=2)
    pooled: Tensor = torchvision.ops.roi_align(
        features, listed.flatten(0, 1), (size, size), scale, ratio or -1, aligned
    )
    return pooled


def _separable(
    features: Tensor, rois: Tensor, size: int, scale: float, ratio: int, aligned: bool
) -> Tensor:
    """Pool as ``rows @ features @ columns``, which autograd differentiates in everything."""
    if ratio == 0:
        raise ValueError("pooling.sampling_ratio=0 has no gradient in the RoIs: choose 1 or more.")
    batch, channels, height, width = features.shape
    rows, columns = _axes(rois, size, scale, ratio, height, width, aligned)
    # (B, C, h, w) -> (B, h, C w); (B, R S, h) @ (B, h, C w) -> (B R, S C, w)
    lines = features.transpose(1, 2).reshape(batch, height, channels * width)
    sampled = (rows.flatten(1, 2) @ lines).view(-1, size * channels, width)
    # (B R, S C, w) @ (B R, w, S) -> (B R, C, S, S)
    pooled = sampled @ columns.flatten(0, 1).transpose(1, 2)
    return pooled.view(-1, size, channels, size).transpose(1, 2)


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        rois: Tensor,
        size: int,
        scale: float,
        ratio: int,
        aligned: bool,
    ) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.cells = features.shape
        ctx.how = size, scale, ratio, aligned
        return _kernel(features, rois, size, scale, ratio, aligned)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        batch, channels, height, width = ctx.cells
        size, scale, ratio, aligned = ctx.how
        rows, columns = _axes(rois, size, scale, ratio, height, width, aligned)
        rows, columns = rows.flatten(1, 2), columns.flatten(0, 1)
        # (B R, C S, S) @ (B R, S, w) -> (B R, C S, w)
        spread = gradients[0].reshape(len(columns), channels * size, size) @ columns
        # (B R, C, S, w) -> (B, R S, C w)
        spread = spread.view(batch, -1, channels, size, width).transpose(2, 3)
        spread = spread.reshape(batch, -1, channels * width)
        # (B, h, R S) @ (B, R S, C w) -> (B, h, C w)
        gradient = (rows.transpose(1, 2) @ spread).view(batch, height, channels, width)
        return gradient.transpose(1, 2), None, None, None, None, None


def _axes(
    rois: Tensor, size: int, scale: float, ratio: int, height: int, width: int, aligned: bool
) -> tuple[Float[Tensor, "B R S h"], Float[Tensor, "B R S w"]]:
    x1, y1, x2, y2 = (rois * scale - (0.5 if aligned else 0.0)).unbind(-1)
    rows = _bin_weights(y1, y2, size, ratio, height, aligned)
    return rows, _bin_weights(x1, x2, size, ratio, width, aligned)


def _bin_weights(
    start: Float[Tensor, "B R"],
    end: Float[Tensor, "B R"],
    size: int,
    ratio: int,
    cells: int,
    aligned: bool,
) -> Float[Tensor, "B R S cells"]:
    """Return the share that each cell of an axis has in each bin of each RoI."""
    length = end - start
    if not aligned:
        length = length.clamp(min=1)  # as the first version of the operator has it
    steps = (torch.arange(size * ratio, device=start.device, dtype=start.dtype) + 0.5) / size
    places = start[..., None] + length[..., None] * steps / ratio  # (B, R, S ratio)
    within = (places >= -1) & (places <= cells)  # samples farther outside count as zero
    cell = torch.arange(cells, device=start.device, dtype=start.dtype)
    distance = (places.clamp(0, cells - 1)[..., None] - cell).abs()
    shares = (1 - distance).clamp(min=0) * within[..., None]
    # (B, R, S ratio, cells) -> (B, R, S, cells)
    return shares.view(*length.shape, size, ratio, cells).mean(dim=3)
