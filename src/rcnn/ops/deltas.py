"""Box deltas: the four numbers that turn one box into another.

``tx = (x - xa) / wa``, ``ty = (y - ya) / ha``, ``tw = log(w / wa)``, ``th = log(h / ha)`` on
centres (R-CNN, appendix C; Faster R-CNN, equation 2).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST_LOG_RATIO = math.log(1000 / 16)
"""Largest tw and th that are decoded: 16 pixels grow to at most 1000, so that the boxes of an
untrained network stay finite."""


def encode(
    anchors: Float[Tensor, "*#n 4"], boxes: Float[Tensor, "*#n 4"]
) -> Float[Tensor, "*#n 4"]:
    """Return the deltas that lead from ``anchors`` to ``boxes``.

    They are zero where either box has no area. The loss of such unused slots is masked by a factor
    of 0, and 0 times infinity would not be 0.
    """
    sizes, centres = _sizes_and_centres(anchors)
    target_sizes, target_centres = _sizes_and_centres(boxes)
    usable = (sizes > 0) & (target_sizes > 0)
    sizes = sizes.where(usable, 1.0)
    shifts = (target_centres - centres) / sizes
    ratios = torch.log(target_sizes.where(usable, 1.0) / sizes)
    return torch.cat([shifts.where(usable, 0.0), ratios], dim=-1)


def decode(
    anchors: Float[Tensor, "*#n 4"], deltas: Float[Tensor, "*#n 4"]
) -> Float[Tensor, "*#n 4"]:
    """Return the boxes to which ``deltas`` lead from ``anchors``."""
    sizes, centres = _sizes_and_centres(anchors)
    centres = centres + deltas[..., :2] * sizes
    halves = sizes * torch.exp(deltas[..., 2:].clamp(max=LARGEST_LOG_RATIO)) / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)


def _sizes_and_centres(
    boxes: Float[Tensor, "*n 4"],
) -> tuple[Float[Tensor, "*n 2"], Float[Tensor, "*n 2"]]:
    sizes = boxes[..., 2:] - boxes[..., :2]
    return sizes, boxes[..., :2] + sizes / 2
