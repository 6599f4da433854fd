"""RoIAlign (Mask R-CNN, section 3), fast on a CPU, and differentiable in the RoIs.

Letters: B images, N RoIs of any of them, C channels, (h, w) cells, S side of the output.

Torchvision's kernel reads and adds one number at a time. But a pooled cell is a weighted sum of a
few rows, if the channels of a cell lie side by side; and such sums are what an embedding bag is.
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
    """Pool every RoI from its image; the values are torchvision's.

    Gradients flow into the RoIs if they require them, which torchvision's operator cannot do.

    Args:
        features: one level.
        rois: in pixels.
        images: which image each RoI is taken from.
        size: S.
        scale: cells per pixel.
        ratio: samples per bin and axis; 0: as many as the bin has cells.
        aligned: a cell's value lies at its middle.

    Raises:
        ValueError: if gradients shall flow into the RoIs and ``ratio`` is 0: the number of samples
            would change with a RoI's size.
    """
    if rois.requires_grad and ratio == 0:
        raise ValueError("pooling.sampling_ratio=0 has no gradient in the RoIs: choose 1 or more.")
    if rois.requires_grad or (features.device.type == "cpu" and ratio > 0):
        return _sum_rows(features, rois, images, size, scale, ratio, aligned)
    listed = torch.cat([images[:, None].to(rois.dtype), rois], dim=1)
    pooled: Tensor = torchvision.ops.roi_align(
        features, listed, (size, size), scale, ratio or -1, aligned
    )
    return pooled


def _sum_rows(
    features: Tensor,
    rois: Tensor,
    images: Tensor,
    size: int,
    scale: float,
    ratio: int,
    aligned: bool,
) -> Float[Tensor, "N C S S"]:
    _, channels, height, width = features.shape
    x1, y1, x2, y2 = (rois * scale - (0.5 if aligned else 0.0)).unbind(-1)
    rows, row_shares = _bins(y1, y2, size, ratio, height, aligned)
    columns, column_shares = _bins(x1, x2, size, ratio, width, aligned)
    rows = rows + images[:, None, None] * height
    # (N, S, 1, 2 ratio, 1), (N, 1, S, 1, 2 ratio) -> (N S S, 4 ratio ratio)
    cells = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    shares = row_shares[:, :, None, :, None] * column_shares[:, None, :, None, :]
    pooled = F.embedding_bag(
        cells.view(-1, (2 * ratio) ** 2),
        features.permute(0, 2, 3, 1).reshape(-1, channels),
        mode="sum",
        per_sample_weights=shares.view(-1, (2 * ratio) ** 2),
    )
    return pooled.view(-1, size, size, channels).permute(0, 3, 1, 2)


def _bins(
    start: Float[Tensor, " N"],
    end: Float[Tensor, " N"],
    size: int,
    ratio: int,
    cells: int,
    aligned: bool,
) -> tuple[Int[Tensor, "N S _"], Float[Tensor, "N S _"]]:
    """Return the cells of an axis on both sides of each sample of each bin, and their shares."""
    length = end - start
    if not aligned:
        length = length.clamp(min=1)  # as the first version of the operator has it
    # In the order of torchvision's sums, so that a sample lies between the same cells.
    bins = torch.arange(size, device=start.device)
    samples = torch.arange(ratio, device=start.device)
    side = (length / size)[:, None, None]
    places = start[:, None, None] + bins[:, None] * side + (samples + 0.5) * side / ratio
    places = places.flatten(1)  # (N, S, ratio) -> (N, S ratio)
    within = (places >= -1) & (places <= cells)  # samples farther outside count as zero
    places = places.clamp(0, cells - 1)
    before = places.detach().floor()
    beyond = places - before
    shares = torch.stack([1 - beyond, beyond], dim=2) * (within / ratio)[:, :, None]
    sides = torch.stack([before, (before + 1).clamp(max=cells - 1)], dim=2).long()
    # (N, S ratio, 2) -> (N, S, 2 ratio)
    return sides.view(-1, size, 2 * ratio), shares.view(-1, size, 2 * ratio)
