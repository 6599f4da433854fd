"""RoIAlign (Mask R-CNN, section 3) that is fast on a CPU, and on any device differentiable in RoIs.

Letters: B images, N RoIs of any of them, C channels, (h, w) cells of a level, S side of the output.

Torchvision's CPU kernel reads and adds one number at a time. But a pooled cell is a weighted sum of
a few cells of the level, each a row of C numbers if the channels lie side by side; and an embedding
bag computes such sums.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def align_rois(
    features: Float[Tensor, "B C h w"],
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    size: int,
    stride: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "N C S S"]:
    """Return what ``torchvision.ops.roi_align`` does, as weighted sums of the cells of each bin.

    Arguments are those of ``rcnn.ops.roi_pooling.roi_align``; ``sampling_ratio`` is 1 or more.
    """
    _, channels, height, width = features.shape
    x1, y1, x2, y2 = (rois * (1.0 / stride) - (0.5 if aligned else 0.0)).unbind(-1)
    rows, row_weights = _cells_of_bins(y1, y2, size, sampling_ratio, height, aligned)
    columns, column_weights = _cells_of_bins(x1, x2, size, sampling_ratio, width, aligned)
    rows = rows + images[:, None, None] * height
    # (N, S, 1, 2 ratio, 1), (N, 1, S, 1, 2 ratio) -> (N S S, 4 ratio ratio)
    cells = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    pooled = F.embedding_bag(
        cells.view(-1, (2 * sampling_ratio) ** 2),
        features.permute(0, 2, 3, 1).reshape(-1, channels),
        mode="sum",
        per_sample_weights=weights.view(-1, (2 * sampling_ratio) ** 2),
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
    """Return the two cells beside each sample of each bin along one axis, and their weights."""
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
