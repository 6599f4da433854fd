"""Detecting at several scales: each region is seen where it is nearest to the usual size.

SPP-net, section 4.1, and Fast R-CNN, section 5.2: an image is resized to several scales, and a
region is pooled at the one at which its area comes closest to 224 x 224 pixels.

Letters: B images, R RoIs per image, S scales, M RoIs of an image at one scale, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rcnn.model.roi_heads import Pool
from rcnn.model.transform import ImageTransform
from rcnn.ops.boxes import area, scale
from rcnn.structures import ImageBatch


def pool_at_scales(
    pool: Pool,
    look: Callable[[ImageBatch], Pool],
    batch: ImageBatch,
    images: ImageTransform,
    canonical_size: float,
) -> Pool:
    """Return what pools each RoI of a batch at its own scale, if there are scales to test at.

    Args:
        pool: of the batch as it is; returned itself without ``ImageSettings.test_scales``.
        look: gives the pool of a batch at another scale.
        batch: RoIs are in its pixels, whatever they are pooled from.
        images: resizes the batch.
        canonical_size: the side of a RoI of the usual area, in pixels.
    """
    if images.settings.test_scales is None:
        return pool
    batches = [images.at_side(batch, side) for side in images.settings.test_scales]
    pools = [pool if scaled is batch else look(scaled) for scaled in batches]
    factors = torch.stack([scaled.sizes / batch.sizes for scaled in batches], dim=1)
    return partial(pool_nearest, pools, factors, canonical_size)


def nearest_scale(
    rois: Float[Tensor, "B R 4"], factors: Float[Tensor, "B S 2"], canonical_size: float
) -> Int[Tensor, "B R"]:
    """Return at which scale each RoI comes closest to the canonical area (the first of equals).

    Args:
        rois: in pixels of the batch.
        factors: (vertical, horizontal), from the batch to each scale.
        canonical_size: the square root of that area, in pixels of the scale.
    """
    areas = area(rois)[:, :, None] * factors.prod(dim=-1)[:, None, :]  # (B, R, S)
    return (areas - canonical_size**2).abs().argmin(dim=-1)


def pool_nearest(
    pools: Sequence[Pool],
    factors: Float[Tensor, "B S 2"],
    canonical_size: float,
    rois: Float[Tensor, "B R 4"],
) -> Float[Tensor, "B*R C _ _"]:
    """Pool each RoI, in pixels of the batch, at its nearest scale.

    Args:
        pools: one for each scale, for RoIs in its pixels.
        factors: see :func:`nearest_scale`.
        canonical_size: likewise.
        rois: to be pooled.
    """
    chosen = nearest_scale(rois, factors, canonical_size)
    first = torch.arange(len(rois), device=rois.device)[:, None] * rois.shape[1]
    parts, places = [], []
    for number, pool in enumerate(pools):
        members = chosen == number
        # (B, R) -> (B, M): the members of each image, padded by others that are dropped again.
        most = int(members.sum(dim=1).amax())
        order = (~members).long().argsort(dim=1, stable=True)[:, :most]
        some = scale(rois.gather(1, order[:, :, None].expand(-1, -1, 4)), factors[:, number])
        used = members.gather(1, order).flatten()
        parts.append(pool(some)[used])
        places.append((first + order).flatten()[used])
    return torch.cat(parts)[torch.cat(places).argsort()]
