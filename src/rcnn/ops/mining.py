"""The RoIs that a detector does worst on (OHEM: Shrivastava et al. 2016).

Letters: B images, N candidates and R RoIs of an image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.ops.sampling import take_rois
from rcnn.ops.suppression import suppress
from rcnn.structures import RoISamples

CO_LOCATED_IOU = 0.7
"""RoIs that overlap more are taken for the same one (section 4.2)."""


def hardest_rois(candidates: RoISamples, losses: Float[Tensor, "B N"], places: int) -> RoISamples:
    """Keep the candidates of each image with the largest loss, none beside a harder one.

    RoIs that lie on each other have almost the same loss and would be counted twice; so losses are
    suppressed as scores are.

    Args:
        candidates: labelled; -1 takes no part.
        losses: of each candidate.
        places: R, or N if that is less.
    """
    group = torch.zeros_like(candidates.labels)
    used = candidates.labels >= 0
    indices, kept = suppress(candidates.boxes, losses, group, used, CO_LOCATED_IOU, places)
    return take_rois(candidates, indices, kept)
