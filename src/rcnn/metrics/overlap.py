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
    intersection = _intersection(a, b, extra)
    return _share(intersection, areas(a, extra) + areas(b, extra) - intersection)


def coverage(
    a: Float[np.ndarray, "*boxes 4"], b: Float[np.ndarray, "*boxes 4"]
) -> Float[np.ndarray, "*boxes"]:
    """Return the share of each box of ``a`` that lies inside its partner, 0 for an empty box."""
    return _share(_intersection(a, b, 0.0), areas(a))


def areas(boxes: Float[np.ndarray, "*boxes 4"], extra: float = 0.0) -> Float[np.ndarray, "*boxes"]:
    """Return width times height of boxes, each of them longer by ``extra``."""
    x1, y1, x2, y2 = _coordinates(boxes)
    return np.asarray((x2 - x1 + extra) * (y2 - y1 + extra))


def _intersection(
    a: Float[np.ndarray, "*#boxes 4"], b: Float[np.ndarray, "*#boxes 4"], extra: float
) -> Float[np.ndarray, "*#boxes"]:
    ax1, ay1, ax2, ay2 = _coordinates(a)
    bx1, by1, bx2, by2 = _coordinates(b)
    width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1) + extra
    height = np.minimum(ay2, by2) - np.maximum(ay1, by1) + extra
    return np.asarray(np.maximum(width, 0) * np.maximum(height, 0))


def _coordinates(boxes: Float[np.ndarray, "*shape 4"]) -> list[Float[np.ndarray, "*shape"]]:
    # numpy is slow along a last axis of two or four numbers; a column at a time is not.
    return [boxes[..., column].astype(np.float64) for column in range(4)]


def _share(
    part: Float[np.ndarray, "*boxes"], whole: Float[np.ndarray, "*boxes"]
) -> Float[np.ndarray, "*boxes"]:
    return np.asarray(np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0))
