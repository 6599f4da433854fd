"""Pooling of every RoI into a fixed grid: RoIPool, RoIAlign, crop pooling, warped image regions.

Letters: B images, N RoIs, C channels, (h, w) cells of a level, S side of the output.

The arguments of all: ``features`` is the feature map of one level, which has a cell every
``stride`` pixels; ``rois`` are boxes in pixels, unless a function says otherwise, that lie in the
images of index ``images``; ``size`` is S. Features are computed with in at least the precision of
the RoIs, and returned in their own: in half precision the coordinates would be off by pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Float, Int
from torch import Tensor

from rcnn.kernels.roi_align_cpu import align_rois
from rcnn.ops.boxes import area, full_precision


def roi_pool(
    features: Float[Tensor, "B C h w"],
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    size: int,
    stride: int,
) -> Float[Tensor, "N C S S"]:
    """Return the maximum of each of S x S bins of whole cells (Fast R-CNN, section 2.1)."""
    precise = features.to(torch.promote_types(features.dtype, rois.dtype))
    pooled: Tensor = torchvision.ops.roi_pool(
        precise, _listed(rois.to(precise.dtype), images), (size, size), 1.0 / stride
    )
    return pooled.to(features.dtype)


def _listed(rois: Float[Tensor, "N 4"], images: Int[Tensor, " N"]) -> Float[Tensor, "N 5"]:
    """Return (image, x1, y1, x2, y2) of each RoI, as torchvision takes them."""
    return torch.cat([images[:, None].to(rois.dtype), rois], dim=1)


def roi_align(
    features: Float[Tensor, "B C h w"],
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    size: int,
    stride: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "N C S S"]:
    """Return the mean of bilinear samples in each of S x S bins (Mask R-CNN, section 3).

    There are ``sampling_ratio`` samples per bin and axis; 0: as many as the bin has cells. With
    ``aligned`` the value of a cell lies at its middle instead of its first corner. It is
    differentiable in the features and, with a fixed number of samples, in the RoIs, which
    torchvision's operator is not.

    Raises:
        ValueError: the RoIs require gradients and ``sampling_ratio`` is 0, which makes the number
            of samples depend on the size of the RoI.
    """
    if rois.requires_grad and sampling_ratio == 0:
        raise ValueError("pooling.sampling_ratio=0 has no gradient in the RoIs: choose 1 or more.")
    precise = features.to(torch.promote_types(features.dtype, rois.dtype))
    rois = rois.to(precise.dtype)
    if rois.requires_grad or (precise.device.type == "cpu" and sampling_ratio > 0):
        pooled = align_rois(precise, rois, images, size, stride, sampling_ratio, aligned)
    else:
        pooled = torchvision.ops.roi_align(
            precise,
            _listed(rois, images),
            (size, size),
            1.0 / stride,
            sampling_ratio or -1,
            aligned,
        )
    return pooled.to(features.dtype)


def crop(
    features: Float[Tensor, "B C h w"],
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    size: int,
    pool_max: bool = False,
) -> Float[Tensor, "N C S S"]:
    """Return bilinear samples of every RoI on a grid from its first to its last corner.

    The RoIs are in cells of the level; the value of cell (i, j) lies at x = j, y = i. With
    ``pool_max`` 2S x 2S points are sampled, and the maximum of each 2 x 2 is taken. It is
    differentiable in the features and in the RoIs.
    """
    # The images lie side by side in one wide map, so that one call samples the RoIs of all of them.
    precise = features.to(torch.promote_types(features.dtype, rois.dtype))
    batch, channels, height, width = precise.shape
    side = 2 * size if pool_max else size
    steps = torch.linspace(0, 1, side, device=rois.device, dtype=rois.dtype)
    x1, y1, x2, y2 = rois[..., None].unbind(-2)  # each (N, 1)
    xs = (x1 + (x2 - x1) * steps).clamp(0, width - 1) + images[:, None] * width  # (N, side)
    ys = (y1 + (y2 - y1) * steps).clamp(0, height - 1)
    # grid_sample counts from -1 to 1 between the first and the last cell.
    xs = 2 * xs / max(batch * width - 1, 1) - 1
    ys = 2 * ys / max(height - 1, 1) - 1
    # (N, side, side, 2) -> (1, N side, side, 2): all RoIs make one tall grid
    grid = torch.stack(
        [xs[:, None, :].expand(-1, side, -1), ys[:, :, None].expand(-1, -1, side)], dim=-1
    ).flatten(0, 1)[None]
    # (B, C, h, w) -> (1, C, h, B w)
    wide = precise.permute(1, 2, 0, 3).reshape(1, channels, height, batch * width)
    sampled = F.grid_sample(wide, grid.to(precise.dtype), align_corners=True)
    # (1, C, N side, side) -> (N, C, side, side)
    sampled = sampled.view(channels, len(rois), side, side).transpose(0, 1)
    return (F.max_pool2d(sampled, 2) if pool_max else sampled).to(features.dtype)


def warp_regions(
    pixels: Float[Tensor, "B 3 H W"],
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    size: int,
    context: int,
) -> Float[Tensor, "N 3 S S"]:
    """Return regions of images with some context, warped to S x S pixels (R-CNN, appendix A).

    Every pixel of the result is the mean over its share of the region, so that a large region is
    filtered before it shrinks. Outside of the image the result is zero, the mean colour. On each
    side ``context`` pixels of the result show the surroundings of the region.
    """
    # roi_align repeats the last pixel beyond the border; a border of zeros makes that zero.
    precise = F.pad(full_precision(pixels), (1, 1, 1, 1))
    regions = with_context(rois, size, context).to(precise.dtype) + 1
    # sampling_ratio=0 takes as many samples for a pixel of the result as its share has pixels.
    warped: Tensor = torchvision.ops.roi_align(
        precise, _listed(regions, images), (size, size), sampling_ratio=0, aligned=True
    )
    return warped.to(pixels.dtype)


def with_context(rois: Float[Tensor, "N 4"], size: int, context: int) -> Float[Tensor, "N 4"]:
    """Return regions enlarged so that, warped to S x S, ``context`` pixels surround each."""
    factor = size / (size - 2 * context)
    centres = (rois[:, :2] + rois[:, 2:]) / 2
    halves = (rois[:, 2:] - rois[:, :2]) / 2 * factor
    return torch.cat([centres - halves, centres + halves], dim=1)


def assign_levels(
    rois: Float[Tensor, "N 4"],
    strides: Sequence[int],
    canonical_size: float,
    canonical_level: int,
) -> Int[Tensor, " N"]:
    """Return the level of each RoI, as an index into ``strides``.

    It is ``floor(k0 + log2(sqrt(area) / canonical_size))`` (Feature Pyramid Networks, equation 1),
    limited to the levels that exist.

    Args:
        rois: boxes, in pixels.
        strides: pixels per cell of each level, powers of two, finest first.
        canonical_size: side of a RoI that belongs to the canonical level, in pixels.
        canonical_level: k0, binary logarithm of the stride of the canonical level.
    """
    side = area(rois.detach()).clamp(min=0).sqrt()
    # The addend keeps a RoI of exactly the canonical size from falling a level by rounding.
    exponent = canonical_level + torch.log2(side / canonical_size) + 1e-6
    finest, coarsest = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
    return exponent.floor().clamp(finest, coarsest).long() - finest
