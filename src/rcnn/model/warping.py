"""Regions cut out of an image and warped to one size (R-CNN, section 2.1 and appendix A).

Letters: B images, (H, W) of the batch, N regions, S side of a warped region.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from rcnn.ops.precision import in_full
from rcnn.settings import require


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
