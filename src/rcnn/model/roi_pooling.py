"""RoI pooling: features of a fixed number of cells for every RoI, four ways behind one switch.

Letters: B images, R RoIs per image, N = B R, C channels, (h, w) cells of a level, S side of the
output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.profiler import record_function

from rcnn.ops.roi_pooling import assign_levels, crop, roi_align, roi_pool
from rcnn.settings import require, settings


@settings
class PoolingSettings:
    """How features are taken from a RoI.

    Attributes:
        kind: ``roi_pool``: maximum of each of S x S bins with whole-cell borders (Fast R-CNN,
            section 2.1); ``roi_align``: bilinear samples, no rounding (Mask R-CNN, section 3);
            ``crop``: one bilinear sample per point of a grid from corner to corner (seed document
            002), differentiable in the RoI's coordinates; ``pyramid``: ``roi_pool`` with several
            numbers of bins (SPP-net, section 2.2), whose cells form a column.
        size: S.
        bins: number of bins along a side, for each level of a ``pyramid``.
        sampling_ratio: samples per bin and axis of ``roi_align``; 0: as many as the bin has cells.
        aligned: for ``roi_align``, the value of a cell lies at its middle.
        crop_max: ``crop`` samples 2S x 2S points and takes the maximum of each 2 x 2.
        canonical_size: a RoI of this side, in pixels, ...
        canonical_level: ... is pooled from the level with stride ``2 ** canonical_level``
            (Feature Pyramid Networks, equation 1). Of several test scales a RoI is pooled at the
            one that brings its side nearest to ``canonical_size`` (``rcnn.model.multiscale``).
    """

    kind: Literal["roi_pool", "roi_align", "crop", "pyramid"] = "roi_align"
    size: PositiveInt = 7
    bins: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (6, 3, 2, 1)
    sampling_ratio: NonNegativeInt = 2
    aligned: bool = False
    crop_max: bool = False
    canonical_size: PositiveFloat = 224.0
    canonical_level: int = 4

    @property
    def cells(self) -> int:
        """Number of pooled cells of a RoI; 50 of the pyramid in the paper."""
        if self.kind == "pyramid":
            return sum(side**2 for side in self.bins)
        return self.size**2


@settings
class WarpSettings:
    """How R-CNN shows a region to the network.

    Attributes:
        size: side of the warped region, in pixels (227 for the paper's AlexNet, 224 for VGG-16).
        context: pixels of a warped region, on each side, that show the surroundings.
        chunk: number of regions that pass the network at once when detecting, which bounds the
            memory; in training all of a minibatch do, for the sake of batch norms.
    """

    size: PositiveInt = 224
    context: NonNegativeInt = 16
    chunk: PositiveInt = 128

    def __post_init__(self) -> None:
        allowed = f"it should be less than half of size={self.size}"
        require(2 * self.context < self.size, "context", self.context, allowed)


@runtime_checkable
class Pooler(Protocol):
    """Turns the features of images, and RoIs in pixels of the resized images, into RoI features.

    The systems differ here: the features of ``RoIPooler`` are the backbone's feature maps,
    those of R-CNN's ``rcnn.model.rcnn.RegionWarper`` are the normalised images themselves.
    """

    def __call__(
        self, features: Sequence[Float[Tensor, "B C _ _"]], rois: Float[Tensor, "B R 4"]
    ) -> Float[Tensor, "B*R D _ _"]:
        """Return the pooled features of every RoI, image by image."""
        ...


class RoIPooler:
    """Pools every RoI from the feature map whose level fits its size.

    Args:
        settings: kind and sizes.
        strides: pixels per cell of the levels that are pooled from, finest first. Further levels
            of the features, which only the RPN reads, are left out.
    """

    def __init__(self, settings: PoolingSettings, strides: Sequence[int]) -> None:
        self.settings = settings
        self.strides = tuple(strides)

    @record_function("roi pooling")
    def __call__(
        self, features: Sequence[Float[Tensor, "B C _ _"]], rois: Float[Tensor, "B R 4"]
    ) -> Float[Tensor, "B*R C _ _"]:
        """Return S x S cells, or those of a pyramid in a column, the first grid first."""
        levels = features[: len(self.strides)]
        flat = rois.flatten(0, 1)  # (B, R, 4) -> (N, 4)
        images = torch.arange(len(rois), device=rois.device).repeat_interleave(rois.shape[1])
        pyramid = self.settings.kind == "pyramid"
        grids = []
        for side in self.settings.bins if pyramid else (self.settings.size,):
            if len(levels) == 1:
                grids.append(self._pool(levels[0], self.strides[0], flat, images, side))
            else:
                # Reading which RoIs belong to a level would wait for a GPU, but is free on a CPU.
                gather = rois.device.type == "cpu"
                grids.append(self._pool_levels(levels, flat, images, side, gather=gather))
        if not pyramid:
            return grids[0]
        # (N, C, side, side) -> (N, C, side side)
        return torch.cat([grid.flatten(2) for grid in grids], dim=2)[..., None]

    def _pool_levels(
        self,
        levels: Sequence[Float[Tensor, "B C _ _"]],
        rois: Float[Tensor, "N 4"],
        images: Int[Tensor, " N"],
        size: int,
        *,
        gather: bool,
    ) -> Float[Tensor, "N C S S"]:
        """Return the features of every RoI from its level.

        With ``gather`` a level pools its own RoIs only; otherwise it pools all of them.
        """
        canonical = (self.settings.canonical_size, self.settings.canonical_level)
        assigned = assign_levels(rois, self.strides, *canonical)
        pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], size, size)
        for index, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            member = assigned == index
            if gather:
                members = member.nonzero().squeeze(1)
                part = self._pool(level, stride, rois[members], images[members], size)
                pooled = pooled.index_copy(0, members, part)
            else:
                # All RoIs pass every level; those of other levels lie so far outside of it that
                # the operators read nothing and add nothing to the gradient.
                outside = torch.where(member[:, None], rois, -8.0 * stride)
                part = self._pool(level, stride, outside, images, size)
                pooled = torch.where(member[:, None, None, None], part, pooled)
        return pooled

    def _pool(
        self,
        level: Float[Tensor, "B C h w"],
        stride: int,
        rois: Float[Tensor, "N 4"],
        images: Int[Tensor, " N"],
        size: int,
    ) -> Float[Tensor, "N C S S"]:
        """Return the features of every RoI from one level."""
        match self.settings.kind:
            case "crop":
                return crop(level, rois / stride, images, size, self.settings.crop_max)
            case "roi_align":
                ratio, aligned = self.settings.sampling_ratio, self.settings.aligned
                return roi_align(level, rois, images, size, stride, ratio, aligned)
            case _:
                return roi_pool(level, rois, images, size, stride)
