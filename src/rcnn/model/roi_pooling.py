"""Features of a fixed number of cells for every RoI, four ways behind one switch.

Letters: B images, R RoIs per image, C channels, (h, w) cells of a level, S side of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align, roi_pool

from rcnn.kernels.roi_align_cpu import align_rois
from rcnn.ops.boxes import area, in_full
from rcnn.settings import require


@dataclass(frozen=True)
class PoolingSettings:
    """How features are taken from a RoI.

    Attributes:
        kind: ``roi_pool``: the maximum of each of S x S bins with whole-cell borders (Fast R-CNN,
            section 2.1); ``roi_align``: bilinear samples, no rounding (Mask R-CNN, section 3);
            ``crop``: one bilinear sample per place on a grid from corner to corner (seed
            document 002), differentiable in the RoI's coordinates; ``pyramid``: ``roi_pool`` with
            several numbers of bins (SPP-net, section 2.2), whose cells form a column.
        size: S.
        bins: of each level of a ``pyramid``, along a side.
        sampling_ratio: ``roi_align`` takes this many samples per bin and axis; 0: as many as the
            bin has cells.
        aligned: ``roi_align`` treats a cell's value as lying at its middle.
        crop_max: ``crop`` samples 2S x 2S places and takes the maximum of each 2 x 2.
        canonical_size: a RoI of this side, in pixels, ...
        canonical_level: ... is pooled from the level with stride ``2 ** canonical_level``
            (Feature Pyramid Networks, equation 1). Of several test scales a RoI is pooled at the
            one at which it is nearest to ``canonical_size`` (:mod:`rcnn.model.multiscale`).
    """

    kind: Literal["roi_pool", "roi_align", "crop", "pyramid"] = "roi_align"
    size: int = 7
    bins: tuple[int, ...] = (6, 3, 2, 1)
    sampling_ratio: int = 2
    aligned: bool = False
    crop_max: bool = False
    canonical_size: float = 224.0
    canonical_level: int = 4

    def __post_init__(self) -> None:
        require(self.size >= 1, "size", self.size, "it is 1 or more")
        usable = min(self.bins, default=0) >= 1
        require(usable, "bins", self.bins, "it lists one or more numbers, each 1 or more")
        ratio = self.sampling_ratio
        require(ratio >= 0, "sampling_ratio", ratio, "it is 0 (adaptive) or more")
        require(self.canonical_size > 0, "canonical_size", self.canonical_size, "it is above 0")

    @property
    def cells(self) -> int:
        """Number of pooled cells of a RoI; 50 of the pyramid in the paper."""
        if self.kind == "pyramid":
            return sum(side**2 for side in self.bins)
        return self.size**2


def pool_rois(
    levels: Sequence[Float[Tensor, "B C _ _"]],
    strides: Sequence[int],
    rois: Float[Tensor, "B R 4"],
    settings: PoolingSettings,
) -> Float[Tensor, "B*R C _ _"]:
    """Pool every RoI from the level that fits its size.

    The result is S x S, or the cells of a pyramid in a column, those of the first grid first.

    Args:
        levels: the feature maps that may be pooled from, finest first.
        strides: of the levels, in pixels.
        rois: in pixels of the resized images.
        settings: how.
    """
    if settings.kind == "pyramid":
        grids = [replace(settings, kind="roi_pool", size=side) for side in settings.bins]
        # (B R, C, side, side) -> (B R, C, side side)
        columns = [pool_rois(levels, strides, rois, grid).flatten(2) for grid in grids]
        return torch.cat(columns, dim=2)[..., None]
    flat = rois.flatten(0, 1)
    images = torch.arange(len(rois), device=rois.device).repeat_interleave(rois.shape[1])
    if len(levels) == 1:
        return _pool(levels[0], strides[0], flat, images, settings)
    # A CPU may look which RoIs belong to a level; a GPU would have to be waited for.
    look = flat.device.type == "cpu"
    return pool_levels(levels, strides, flat, images, settings, look=look)


def pool_levels(
    levels: Sequence[Float[Tensor, "B C _ _"]],
    strides: Sequence[int],
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    settings: PoolingSettings,
    *,
    look: bool,
) -> Float[Tensor, "N C S S"]:
    """Pool every RoI from that one of several levels that fits its size.

    Args:
        levels: finest first.
        strides: of the levels, in pixels.
        rois: in pixels of the resized images.
        images: which image each RoI is taken from.
        settings: how.
        look: let the host read which RoIs belong to a level, and pool only these. Otherwise all
            pass every level, and those of other levels lie so far outside of it that the operators
            read nothing, nor add anything to the gradient. The result is the same.
    """
    chosen = assign_levels(rois, strides, settings)
    pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], settings.size, settings.size)
    for number, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        member = chosen == number
        if look:
            places = member.nonzero().squeeze(1)
            part = _pool(features, stride, rois[places], images[places], settings)
            pooled = pooled.index_copy(0, places, part)
        else:
            outside = torch.where(member[:, None], rois, -8.0 * stride)
            part = _pool(features, stride, outside, images, settings)
            pooled = torch.where(member[:, None, None, None], part, pooled)
    return pooled


def assign_levels(
    rois: Float[Tensor, "N 4"], strides: Sequence[int], settings: PoolingSettings
) -> Int[Tensor, " N"]:
    """Return the level of each RoI: ``floor(k0 + log2(sqrt(area) / 224))``, within what there is.

    The small addend keeps a RoI of exactly the canonical size from falling a level by rounding.
    """
    side = area(rois.detach()).clamp(min=0).sqrt()
    exponent = settings.canonical_level + torch.log2(side / settings.canonical_size) + 1e-6
    finest = strides[0].bit_length() - 1
    coarsest = strides[-1].bit_length() - 1
    return exponent.floor().clamp(finest, coarsest).long() - finest


def _pool(
    features: Float[Tensor, "B C h w"],
    stride: int,
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    settings: PoolingSettings,
) -> Float[Tensor, "N C S S"]:
    """Pool RoIs, each from its own image, from one level."""
    precise = _in_full(features, rois)
    pooled: Tensor
    if settings.kind == "crop":
        pooled = crop(precise, rois / stride, images, settings.size, pool_max=settings.crop_max)
        return pooled.to(features.dtype)
    rois, scale = rois.to(precise.dtype), 1.0 / stride
    if settings.kind == "roi_pool":
        listed = torch.cat([images[:, None].to(precise.dtype), rois], dim=1)
        pooled = roi_pool(precise, listed, (settings.size, settings.size), spatial_scale=scale)
    else:
        ratio, aligned = settings.sampling_ratio, settings.aligned
        pooled = align_rois(precise, rois, images, settings.size, scale, ratio, aligned)
    return pooled.to(features.dtype)


def _in_full(features: Float[Tensor, "B C h w"], rois: Tensor) -> Float[Tensor, "B C h w"]:
    """Half precision features are pooled in full: half precision RoIs would be off by pixels."""
    return features.to(torch.promote_types(features.dtype, rois.dtype))


def crop(
    features: Float[Tensor, "B C h w"],
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    size: int,
    pool_max: bool = False,
) -> Float[Tensor, "N C S S"]:
    """Sample every RoI bilinearly on a grid from its first to its last corner.

    Differentiable in the features and in the RoIs. The images lie side by side in one wide map, so
    that one call samples the RoIs of all of them.

    Args:
        features: one level.
        rois: in cells of the level; the value of cell (i, j) lies at x = j, y = i.
        images: which image each RoI is taken from.
        size: S.
        pool_max: sample 2S x 2S places and take the maximum of each 2 x 2.
    """
    batch, channels, height, width = features.shape
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
    wide = features.permute(1, 2, 0, 3).reshape(1, channels, height, batch * width)
    sampled = F.grid_sample(wide, grid.to(features.dtype), align_corners=True)
    # (1, C, N side, side) -> (N, C, side, side)
    sampled = sampled.view(channels, len(rois), side, side).transpose(0, 1)
    return F.max_pool2d(sampled, 2) if pool_max else sampled


@dataclass(frozen=True)
class WarpSettings:
    """How R-CNN shows a region to the network.

    Attributes:
        size: S, in pixels (227 for the paper's AlexNet, 224 for VGG-16).
        context: pixels of a warped region, on each side, that show what is around it.
        chunk: so many regions pass the network at once when detecting, which bounds the memory;
            in training all of a minibatch do, for the sake of batch norms.
    """

    size: int = 224
    context: int = 16
    chunk: int = 128

    def __post_init__(self) -> None:
        require(self.size >= 1, "size", self.size, "it is 1 or more pixels")
        allowed = f"it is 0 or more pixels, and less than half of size={self.size}"
        require(0 <= 2 * self.context < self.size, "context", self.context, allowed)
        require(self.chunk >= 1, "chunk", self.chunk, "it is 1 or more regions")


def warp_regions(
    pixels: Float[Tensor, "B 3 H W"],
    rois: Float[Tensor, "N 4"],
    images: Int[Tensor, " N"],
    settings: WarpSettings,
) -> Float[Tensor, "N 3 S S"]:
    """Cut regions out with some context, and warp them to S x S whatever their proportions.

    Every pixel of the result is the mean over its share of the region, so that a large region is
    filtered before it shrinks. What lies outside of the image is zero: the mean colour.

    Args:
        pixels: normalised images, zero in the padding.
        rois: in pixels.
        images: which image each region is cut out of.
        settings: size and context.
    """
    # Beyond the last pixel the operator would go on with it, but for a border of zeros.
    precise = F.pad(in_full(pixels), (1, 1, 1, 1))
    regions = with_context(rois, settings).to(precise.dtype) + 1
    listed = torch.cat([images[:, None].to(precise.dtype), regions], dim=1)
    side = (settings.size, settings.size)
    # 0 samples: as many for each pixel of the result as there are pixels in its share.
    warped: Tensor = roi_align(precise, listed, side, sampling_ratio=0, aligned=True)
    return warped.to(pixels.dtype)


def with_context(rois: Float[Tensor, "N 4"], settings: WarpSettings) -> Float[Tensor, "N 4"]:
    """Return the regions enlarged such that they fill what the context leaves of S x S."""
    factor = settings.size / (settings.size - 2 * settings.context)
    centres = (rois[:, :2] + rois[:, 2:]) / 2
    halves = (rois[:, 2:] - rois[:, :2]) / 2 * factor
    return torch.cat([centres - halves, centres + halves], dim=1)
