"""Detection at several scales: each region is classified at the scale that suits its size.

SPP-net, section 4.1, and Fast R-CNN, section 5.2: an image is resized to several scales, and a
region is pooled at the one at which its area comes closest to 224 x 224 pixels.

Letters: B images, R RoIs per image, S scales, M RoIs of an image at one scale, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rcnn.model.roi_pooling import Pooler
from rcnn.model.transform import ImageTransform
from rcnn.ops.boxes import area, scale
from rcnn.structures import ImageBatch

Features = Sequence[Float[Tensor, "B C _ _"]]


class ScaledFeatures(NamedTuple):
    """Features of the images at one test scale.

    Attributes:
        features: feature maps at this scale.
        factors: (vertical, horizontal) factors from pixels of the batch to pixels of the scale.
    """

    features: Features
    factors: Float[Tensor, "B 2"]


def extract_at_test_scales(
    extract: Callable[[ImageBatch], Features],
    features: Features,
    batch: ImageBatch,
    transform: ImageTransform,
) -> list[ScaledFeatures]:
    """Return the features of a batch at each of ``ImageSettings.test_scales``.

    Those at the scale that the batch has already are ``features``; the others are extracted.
    """
    scaled = []
    for side in transform.settings.test_scales or ():
        resized = transform.at_side(batch, side)
        maps = features if resized is batch else extract(resized)
        scaled.append(ScaledFeatures(maps, resized.sizes / batch.sizes))
    return scaled


def nearest_scale(
    rois: Float[Tensor, "B R 4"], factors: Float[Tensor, "B S 2"], canonical_size: float
) -> Int[Tensor, "B R"]:
    """Return the index of the scale at which the area of each RoI is nearest to a square's.

    Args:
        rois: boxes in pixels of the batch.
        factors: (vertical, horizontal) factors from the batch to each scale.
        canonical_size: side of the square, in pixels of the scale.
    """
    areas = area(rois)[:, :, None] * factors.prod(dim=-1)[:, None, :]  # (B, R, S)
    return (areas - canonical_size**2).abs().argmin(dim=-1)


def pool_at_nearest_scale(
    pooler: Pooler,
    scales: Sequence[ScaledFeatures],
    rois: Float[Tensor, "B R 4"],
    canonical_size: float,
) -> Float[Tensor, "B*R C _ _"]:
    """Pool each RoI, in pixels of the batch, from the features of its ``nearest_scale``."""
    factors = torch.stack([scaled.factors for scaled in scales], dim=1)
    chosen = nearest_scale(rois, factors, canonical_size)
    first = torch.arange(len(rois), device=rois.device)[:, None] * rois.shape[1]
    parts, slots = [], []
    for index, scaled in enumerate(scales):
        members = chosen == index
        # (B, R) -> (B, M): the members of each image, padded by others that are dropped again.
        most = int(members.sum(dim=1).amax())
        order = (~members).long().argsort(dim=1, stable=True)[:, :most]
        some = scale(rois.gather(1, order[:, :, None].expand(-1, -1, 4)), scaled.factors)
        used = members.gather(1, order).flatten()
        parts.append(pooler(scaled.features, some)[used])
        slots.append((first + order).flatten()[used])
    return torch.cat(parts)[torch.cat(slots).argsort()]
