"""Which detections have found an object, by the rule of COCO.

Letters: D detections and G objects of all images, P pairs of them, C those detections that reach
any object at all, A ranges of area, T overlap thresholds.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from rcnn.metrics.flat import FlatDetections, FlatObjects
from rcnn.metrics.matching import HIT, MISS, NOT_COUNTED
from rcnn.metrics.overlap import Pairs, coverage, iou, pairs_within_groups

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
