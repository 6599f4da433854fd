"""RoIAlign (Mask R-CNN, section 3) for a CPU, also differentiable in the RoIs on any device.

Letters: B images, N RoIs of any of them, C channels, (h, w) cells of a level, S side of the output.

Torchvision's CPU kernel reads and adds one number at a time. But a pooled cell is a weighted sum of
a few cells of the level, each a row of C numbers if the channels lie side by side; and an embedding
bag computes such sums.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision.ops
from jaxtyping import Float, Int
from torch import Tensor


def align_rois(
    features: Float[Tensor, "B C h w"],
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    size: int,
    scale: float,
    ratio: int,
    aligned: bool = False,
) -> Float[Tensor, "N C S S"]:
    """Return the pooled features of every RoI; the values are those of torchvision's ``roi_align``.

    Gradients flow into the RoIs if they require them, which torchvision's operator cannot do.

    Args:
        features: feature map of one level.
        rois: boxes, in pixels.
        images: index of the image of each RoI.
        size: S.
        scale: cells per pixel.
        ratio: samples per bin and axis; 0: as many as the bin has cells.
        aligned: whether the value of a cell lies at its middle instead of its first corner.

    Raises:
        ValueError: the RoIs require gradients and ``ratio`` is 0, which makes the number of samples
            depend on the size of the RoI.
    """
    if rois.requires_grad and ratio == 0:
        raise ValueError("pooling.sampling_ratio=0 has no gradient in the RoIs: choose 1 or more.")
    if rois.requires_grad or (features.device.type == "cpu" and ratio > 0):
        return _sum_cells(features, rois, images, size, scale, ratio, aligned)
    listed = torch.cat([images[:, None].to(rois.dtype), rois], dim=1)
    pooled: Tensor = torchvision.ops.roi_align(
        features, listed, (size, size), scale, ratio or -1, aligned
    )
    return pooled


def _sum_cells(
    features: Float[Tensor, "B C h w"],
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    size: int,
    scale: float,
    ratio: int,
    aligned: bool,
) -> Float[Tensor, "N C S S"]:
    """Return the pooled features as weighted sums of the cells around each sample."""
    _, channels, height, width = features.shape
    x1, y1, x2, y2 = (rois * scale - (0.5 if aligned else 0.0)).unbind(-1)
    rows, row_weights = _cells_of_bins(y1, y2, size, ratio, height, aligned)
    columns, column_weights = _cells_of_bins(x1, x2, size, ratio, width, aligned)
    rows = rows + images[:, None, None] * height
    # (N, S, 1, 2 ratio, 1), (N, 1, S, 1, 2 ratio) -> (N S S, 4 ratio ratio)
    cells = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    pooled = F.embedding_bag(
        cells.view(-1, (2 * ratio) ** 2),
        features.permute(0, 2, 3, 1).reshape(-1, channels),
        mode="sum",
        per_sample_weights=weights.view(-1, (2 * ratio) ** 2),
    )
    return pooled.view(-1, size, size, channels).permute(0, 3, 1, 2)


def _cells_of_bins(
    start: Float[Tensor, " N"],
    end: Float[Tensor, " N"],
    size: int,
    ratio: int,
    cells: int,
    aligned: bool,
) -> tuple[Int[Tensor, "N S _"], Float[Tensor, "N S _"]]:
    """Return the two cells beside each sample of each bin along one axis, and their weights.

    Args:
        start: first coordinate of each RoI, in cells.
        end: last coordinate of each RoI, in cells.
        size: S.
        ratio: samples per bin.
        cells: number of cells along the axis.
        aligned: whether a RoI may be shorter than a cell.
    """
    length = end - start
    if not aligned:
        length = length.clamp(min=1)  # as the first version of the operator has it
    # In the order of torchvision's sums, so that a sample lies between the same cells.
    bins = torch.arange(size, device=start.device)
    samples = torch.arange(ratio, device=start.device)
    side = (length / size)[:, None, None]
    points = start[:, None, None] + bins[:, None] * side + (samples + 0.5) * side / ratio
    points = points.flatten(1)  # (N, S, ratio) -> (N, S ratio)
    within = (points >= -1) & (points <= cells)  # samples farther outside count as zero
    points = points.clamp(0, cells - 1)
    before = points.detach().floor()
    beyond = points - before
    weights = torch.stack([1 - beyond, beyond], dim=2) * (within / ratio)[:, :, None]
    neighbours = torch.stack([before, (before + 1).clamp(max=cells - 1)], dim=2).long()
    # (N, S ratio, 2) -> (N, S, 2 ratio)
    return neighbours.view(-1, size, 2 * ratio), weights.view(-1, size, 2 * ratio)
