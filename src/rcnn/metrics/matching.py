"""The overlaps of detections with the objects that they may be compared with.

Letters: D detections, G objects, P pairs of them.

Images hold different numbers of boxes, so the pairs are listed instead of padded: a detection is
paired with the objects of its own group (an image, or a class of an image), and only with those.
Everything is float64, in which the sides and areas of boxes in whole pixels are exact: whether an
overlap reaches a threshold should not depend on rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from rcnn.metrics.inputs import FlatDetections, FlatObjects


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


MISS, HIT, NOT_COUNTED = 0, 1, -1


def outcomes(
    detections: FlatDetections,
    objects: FlatObjects,
    iou_thresholds: Sequence[float],
    plus_one: bool = False,
) -> Int8[np.ndarray, "D T"]:
    """Decide for each detection whether it is a hit (1), a miss (0) or not counted (-1).

    A detection stands for the object of its class and image that it overlaps most (the first of
    equals), whether that is taken or not, difficult or not. Below the threshold the detection is a
    miss; if the object is difficult it is not counted; else the best scored detection of an object
    is a hit (the first of equals) and every further one a miss. Crowd regions, which VOC does not
    have, are treated like difficult objects.

    Source: VOCevaldet.m of the devkit.

    Args:
        detections: of whole images.
        objects: of the same images.
        iou_thresholds: the overlaps from which on a detection has found its object.
        plus_one: whether boxes are inclusive pixel indices, see ``iou``.
    """
    images = len(detections.counts)
    pairs = pairs_within_groups(
        (detections.labels * images + detections.images).numpy(),
        (objects.labels * images + objects.images).numpy(),
    )
    overlaps = iou(
        detections.boxes.numpy()[pairs.detections], objects.boxes.numpy()[pairs.objects], plus_one
    )
    best_first = np.lexsort((pairs.objects, -overlaps, pairs.detections))
    found, first = np.unique(pairs.detections[best_first], return_index=True)
    best_object = np.full(len(detections.labels), -1)
    best_iou = np.full(len(detections.labels), -1.0)
    best_object[found] = pairs.objects[best_first][first]
    best_iou[found] = overlaps[best_first][first]

    # A detection without any object of its class has place -1, the appended one.
    counted = np.append(objects.counted.numpy(), np.True_)[best_object]
    by_score = np.argsort(-detections.scores.numpy(), kind="stable")
    result = np.full((len(best_iou), len(iou_thresholds)), MISS, dtype=np.int8)
    for column, threshold in enumerate(iou_thresholds):
        reaches = best_iou >= threshold
        result[reaches & ~counted, column] = NOT_COUNTED
        claims = by_score[(reaches & counted)[by_score]]
        _, first_claim = np.unique(best_object[claims], return_index=True)
        result[claims[first_claim], column] = HIT
    return result


DETECTIONS_AT_ONCE = 1 << 16
"""Detections whose pairs are listed together, so that crowded images do not fill the memory."""


class Claims(NamedTuple):
    """What became of the detections that reach an object; every other one is a miss.

    Attributes:
        detections: their positions, rising.
        fates: HIT, MISS or NOT_COUNTED (:mod:`rcnn.metrics.matching`).
    """

    detections: Int[np.ndarray, " C"]
    fates: Int8[np.ndarray, "A T C"]


def ranks_within_groups(
    groups: Int[np.ndarray, " D"], scores: Float[np.ndarray, " D"]
) -> Int[np.ndarray, " D"]:
    """Return how many of its own group come before each one; of equal scores the first is first."""
    order = np.lexsort((-scores, groups))
    ordered = groups[order]
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return ranks


def reaching_pairs(
    detections: FlatDetections, objects: FlatObjects, threshold: float
) -> tuple[Pairs, Float[np.ndarray, " P"]]:
    """List detections with the objects of their image and class that they overlap, and how much.

    The overlap with a crowd is the share of the detection that lies inside it.

    Args:
        detections: of whole images.
        objects: of the same images.
        threshold: the least overlap of a pair.
    """
    images = len(detections.counts)
    groups = (detections.labels * images + detections.images).numpy()
    object_groups = (objects.labels * images + objects.images).numpy()
    boxes, object_boxes = detections.boxes.numpy(), objects.boxes.numpy()
    crowd = objects.crowd.numpy()
    parts = []
    for start in range(0, max(len(groups), 1), DETECTIONS_AT_ONCE):
        pairs = pairs_within_groups(groups[start : start + DETECTIONS_AT_ONCE], object_groups)
        of_detection, of_object = pairs.detections + start, pairs.objects
        overlaps = iou(boxes[of_detection], object_boxes[of_object])
        in_crowd = crowd[of_object]
        overlaps[in_crowd] = coverage(
            boxes[of_detection[in_crowd]], object_boxes[of_object[in_crowd]]
        )
        reach = overlaps >= threshold
        parts.append((of_detection[reach], of_object[reach], overlaps[reach]))
    of_detection, of_object, overlaps = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Pairs(of_detection, of_object), overlaps


def claim(
    pairs: Pairs,
    overlaps: Float[np.ndarray, " P"],
    ranks: Int[np.ndarray, " D"],
    crowd: Bool[np.ndarray, " G"],
    ignored: Bool[np.ndarray, "A G"],
    thresholds: Float[np.ndarray, " T"],
) -> Claims:
    """Let the detections of every image and class claim objects, the best score first.

    Each claims the free object that it overlaps most (the last of equals), if by the threshold. One
    that has to be found comes before one that is ignored, whatever the overlaps. A crowd is never
    taken. Who claims an ignored object or a crowd is not counted.

    Source: ``COCOeval.evaluateImg`` of pycocotools.

    Args:
        pairs: detections and objects of the same image and class, each pair once.
        overlaps: of the pairs.
        ranks: the place of each detection in its image and class.
        crowd: the objects that are never taken.
        ignored: the objects that need not be found, crowds among them, for each range of area.
        thresholds: each gives a matching of its own.
    """
    # In this order a larger position is a larger overlap, so that positions decide all below.
    order = np.lexsort((pairs.objects, overlaps, pairs.detections, ranks[pairs.detections]))
    of_detection, of_object = pairs.detections[order], pairs.objects[order]
    enough = overlaps[order] >= thresholds[:, None]  # T P
    positions = np.arange(len(order))
    preference = positions + len(order) * ~ignored[:, of_object]  # A P

    detections = np.unique(of_detection)
    places = np.searchsorted(detections, of_detection)
    fates = np.full((len(ignored), len(thresholds), len(detections)), MISS, dtype=np.int8)
    taken = np.zeros((len(ignored), len(thresholds), len(crowd)), dtype=bool)
    # One round takes the detections of one rank, at most one of every image and class: they cannot
    # want the same object.
    starts = np.flatnonzero(np.diff(ranks[of_detection], prepend=-1))
    for start, stop in pairwise([*starts.tolist(), len(order)]):
        wanted = of_object[start:stop]
        possible = enough[:, start:stop] & ~taken[:, :, wanted]  # A T p
        best = np.maximum.reduceat(
            np.where(possible, preference[:, None, start:stop], -1),
            firsts := np.flatnonzero(np.diff(of_detection[start:stop], prepend=-1)),
            axis=2,
        )
        fate = np.where(best >= len(order), HIT, np.where(best < 0, MISS, NOT_COUNTED))
        fates[:, :, places[start:stop][firsts]] = fate
        a, t, claimants = np.nonzero(best >= 0)
        claimed = of_object[best[a, t, claimants] % len(order)]
        taken[a, t, claimed] = ~crowd[claimed]
    return Claims(detections, fates)
