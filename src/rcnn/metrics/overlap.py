"""The overlaps of detections with the objects that they may be compared with.

Letters: D detections, G objects, P pairs of them.

Images hold different numbers of boxes, so the pairs are listed instead of padded: a detection is
paired with the objects of its own group (an image, or a class of an image), and only with those.
Everything is float64, in which the sides and areas of boxes in whole pixels are exact: whether an
overlap reaches a threshold should not depend on rounding.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Pairs(NamedTuple):
    """Positions of a detection and an object, sorted by detection, then object."""

    detections: Int[np.ndarray, " P"]
    objects: Int[np.ndarray, " P"]


def pairs_within_groups(
    detection_groups: Int[np.ndarray, " D"], object_groups: Int[np.ndarray, " G"]
) -> Pairs:
    """List every (detection, object) pair whose group numbers are equal."""
    by_group = np.argsort(object_groups, kind="stable")
    sorted_groups = object_groups[by_group]
    starts = np.searchsorted(sorted_groups, detection_groups, side="left")
    sizes = np.searchsorted(sorted_groups, detection_groups, side="right") - starts
    detections = np.repeat(np.arange(len(detection_groups)), sizes)
    first_pairs = np.cumsum(sizes) - sizes
    place_in_group = np.arange(len(detections)) - first_pairs[detections]
    return Pairs(detections, by_group[starts[detections] + place_in_group])


def iou(
    a: Float[np.ndarray, "*#boxes 4"], b: Float[np.ndarray, "*#boxes 4"], plus_one: bool = False
) -> Float[np.ndarray, "*#boxes"]:
    """Return the intersection over union of boxes with their partners, 0 where both are empty.

    Args:
        a: boxes.
        b: their partners, in a shape that broadcasts with the boxes'.
        plus_one: whether x2 and y2 are the last pixel inside the box, so that a width is
            ``x2 - x1 + 1`` (the rule of the VOC devkit for its integer pixel indices).
    """
    extra = 1.0 if plus_one else 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + extra
    intersection = np.clip(sides, 0, None).prod(axis=-1)
    area_a = (a[..., 2:] - a[..., :2] + extra).prod(axis=-1)
    area_b = (b[..., 2:] - b[..., :2] + extra).prod(axis=-1)
    union = area_a + area_b - intersection
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(union), where=union > 0))
