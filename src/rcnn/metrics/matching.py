"""Which detection is matched with which object: the rules of COCO and of PASCAL VOC.

For the pictures of ``rcnn.view``: ``match_image`` matches the detections of one image.

Letters: D detections and G objects of all images, P pairs of them, C detections that are in a pair,
A ranges of object area, T IoU thresholds.

Images hold different numbers of boxes, so the pairs that can match are listed instead of padded: a
detection with the objects of its own image and class. Overlaps are float64, in which the areas of
boxes in whole pixels are exact: rounding does not decide whether an overlap reaches a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from rcnn.metrics.inputs import FlatDetections, FlatObjects
from rcnn.ops.boxes import coverage, iou
from rcnn.structures import Detections, GroundTruth

TRUE_POSITIVE, FALSE_POSITIVE, IGNORED = 1, 0, -1
"""The outcomes of a detection."""

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's."""

DETECTIONS_AT_ONCE = 1 << 16
"""Detections with pairs that are listed together, so that crowded images do not fill the memory."""


class Pairs(NamedTuple):
    """Pairs of a detection and an object of the same image and class, in any order.

    Attributes:
        detections: index of the detection.
        objects: index of the object.
        overlaps: IoU, or with a crowd the share of the detection that lies inside it, 0..1.
    """

    detections: Int[np.ndarray, " P"]
    objects: Int[np.ndarray, " P"]
    overlaps: Float[np.ndarray, " P"]

    def take(self, index: Int[np.ndarray, " Q"] | Bool[np.ndarray, " P"]) -> Pairs:
        """Return the pairs at ``index``, in its order."""
        return Pairs(*(column[index] for column in self))


class Matching(NamedTuple):
    """The object of each detection that overlaps any; every other detection has none.

    Attributes:
        detections: index of the detection, in any order.
        objects: index of the matched object for each range of area and threshold, -1 for none.
    """

    detections: Int[np.ndarray, " C"]
    objects: Int[np.ndarray, "A T C"]

    def outcomes(self, ignored: Bool[np.ndarray, "A G"]) -> Int8[np.ndarray, "A T C"]:
        """Return TRUE_POSITIVE, FALSE_POSITIVE or IGNORED for each detection.

        Args:
            ignored: objects that need not be found.
        """
        result = np.full(self.objects.shape, FALSE_POSITIVE, dtype=np.int8)
        for of_range, objects, ignored_in_range in zip(result, self.objects, ignored, strict=True):
            matched = objects >= 0
            need_not = ignored_in_range[objects[matched]]
            of_range[matched] = np.where(need_not, IGNORED, TRUE_POSITIVE)
        return result


def overlapping_pairs(
    detections: FlatDetections, objects: FlatObjects, min_overlap: float, plus_one: bool = False
) -> Pairs:
    """List the pairs that overlap enough.

    Args:
        detections: of whole images.
        objects: of the same images.
        min_overlap: smallest overlap of a pair, 0..1.
        plus_one: whether x2 and y2 are the last pixel inside a box, so that a width is
            ``x2 - x1 + 1`` (the rule of the VOC devkit for its integer pixel indices).
    """
    groups, object_groups = detections.groups.numpy(), objects.groups.numpy()
    boxes, object_boxes = detections.boxes.double(), objects.boxes.double()
    if plus_one:
        last_pixel = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        boxes, object_boxes = boxes + last_pixel, object_boxes + last_pixel
    crowd = objects.crowd.numpy()
    by_group = np.argsort(object_groups, kind="stable")
    sorted_groups = object_groups[by_group]
    parts = []
    for start in range(0, max(len(groups), 1), DETECTIONS_AT_ONCE):
        some = groups[start : start + DETECTIONS_AT_ONCE]
        firsts = np.searchsorted(sorted_groups, some, side="left")
        sizes = np.searchsorted(sorted_groups, some, side="right") - firsts
        of_detection = np.repeat(np.arange(start, start + len(some)), sizes)
        # The first pair of a detection is with the first object of its group, and so on.
        offsets = np.repeat(firsts - (np.cumsum(sizes) - sizes), sizes)
        of_object = by_group[np.arange(len(of_detection)) + offsets]
        # A batch of 1 x 1 tables: every box with its partner only.
        a = boxes[torch.from_numpy(of_detection), None]
        b = object_boxes[torch.from_numpy(of_object), None]
        overlaps = iou(a, b).flatten().numpy()
        if (in_crowd := crowd[of_object]).any():
            overlaps[in_crowd] = coverage(a[in_crowd], b[in_crowd]).flatten().numpy()
        parts.append(Pairs(of_detection, of_object, overlaps).take(overlaps >= min_overlap))
    return Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def ranks_of(detections: FlatDetections) -> Int[np.ndarray, " D"]:
    """Return the rank of each detection in its image and class, 0 for the best score.

    Of equal scores the first is best.
    """
    groups = detections.groups.numpy()
    order = np.lexsort((-detections.scores.numpy(), groups))
    ordered = groups[order]
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return ranks


def match(
    pairs: Pairs,
    ranks: Int[np.ndarray, " D"],
    ignored: Bool[np.ndarray, "A G"],
    shared: Bool[np.ndarray, " G"],
    thresholds: Float[np.ndarray, " T"],
) -> Matching:
    """Match the detections of every image and class with its objects, the best score first.

    Each detection takes the free object that it overlaps most (the last of equals), if the overlap
    reaches the threshold. An object that has to be found comes before an ignored one, whatever the
    overlaps.

    Source: ``COCOeval.evaluateImg`` of pycocotools, which goes through the detections one by one.
    Here all of them ask at once for the object that they prefer, each object keeps the one of best
    rank, and the rejected ask for their next (Gale and Shapley, College Admissions and the
    Stability of Marriage, 1962). All objects rank the detections alike, so that only one matching
    is stable, and both ways lead to it; this one in a few rounds.

    Args:
        pairs: each pair once.
        ranks: rank of each detection in its image and class, 0 for the best score.
        ignored: objects that need not be found, for each range of area.
        shared: objects that any number of detections may take.
        thresholds: IoU, each with a matching of its own.
    """
    order = np.lexsort((-pairs.objects, -pairs.overlaps, pairs.detections, ranks[pairs.detections]))
    pairs = pairs.take(order)
    is_first = _differs_from_previous(pairs.detections)
    detections = pairs.detections[is_first]
    rows = np.cumsum(is_first) - 1  # by rank, so that an object prefers the lower row
    shape = (len(ignored), len(thresholds), len(detections))
    result = np.full(shape, -1, dtype=np.int32)
    for objects, ignored_in_range in zip(result, ignored, strict=True):
        by_preference = np.argsort(2 * rows + ignored_in_range[pairs.objects], kind="stable")
        _match_range(pairs.take(by_preference), rows, shared, thresholds, objects)
    return Matching(detections, result)


def _match_range(
    pairs: Pairs,
    rows: Int[np.ndarray, " P"],
    shared: Bool[np.ndarray, " G"],
    thresholds: Float[np.ndarray, " T"],
    result: Int[np.ndarray, "T C"],
) -> None:
    """Write the matched objects of one range of area into ``result``.

    Args:
        pairs: by rank, detection and preference.
        rows: row of ``result`` for each pair.
        shared: objects that any number of detections may take.
        thresholds: IoU.
        result: -1 everywhere.
    """
    # A choice is a pair at one threshold; the choices of one detection follow each other.
    threshold, pair = np.nonzero(pairs.overlaps >= thresholds[:, None])
    objects = pairs.objects[pair]
    slots = threshold * len(shared) + objects
    owners = threshold * result.shape[1] + rows[pair]
    starts = np.flatnonzero(_differs_from_previous(owners))
    ends = np.append(starts[1:], len(owners))
    current = starts.copy()
    nobody = len(starts)
    holders = np.full(len(thresholds) * len(shared), nobody)
    asking = np.arange(len(starts))
    while len(asking) > 0:
        asking = asking[~shared[objects[current[asking]]]]
        asked = slots[current[asking]]
        before = holders[asked]
        np.minimum.at(holders, asked, asking)
        after = holders[asked]
        displaced = np.unique(before[(before != after) & (before != nobody)])
        rejected = np.concatenate([asking[asking != after], displaced])
        current[rejected] += 1
        asking = rejected[current[rejected] < ends[rejected]]
    matched = current < ends
    result.flat[owners[starts[matched]]] = objects[current[matched]]


def _differs_from_previous(values: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    result = np.ones(len(values), dtype=bool)
    result[1:] = values[1:] != values[:-1]
    return result


def voc_outcomes(
    detections: FlatDetections,
    objects: FlatObjects,
    iou_thresholds: Sequence[float],
    plus_one: bool = False,
) -> Int8[np.ndarray, "D T"]:
    """Return TRUE_POSITIVE, FALSE_POSITIVE or IGNORED for each detection, by the rule of VOC.

    The only object that a detection can be matched with is the one of its class and image that it
    overlaps most (the first of equals), taken or not, difficult or not. Below the threshold the
    detection is a false positive; if the object is difficult it is ignored; else the best scored
    detection of an object (the first of equals) is the true positive, and every further one a false
    positive. Crowd regions, which VOC does not have, are treated like difficult objects.

    Source: VOCevaldet.m of the devkit.

    Args:
        detections: of whole images.
        objects: of the same images.
        iou_thresholds: smallest IoU of a match, each with a matching of its own.
        plus_one: whether boxes are inclusive pixel indices, see ``overlapping_pairs``.
    """
    no = torch.zeros_like(objects.crowd)
    without_crowds = FlatObjects(**(vars(objects) | {"crowd": no, "ignore": ~objects.counted}))
    thresholds = np.asarray(iou_thresholds, dtype=np.float64)
    pairs = overlapping_pairs(detections, without_crowds, thresholds.min(), plus_one)
    pairs = pairs.take(np.lexsort((pairs.objects, -pairs.overlaps, pairs.detections)))
    pairs = pairs.take(_differs_from_previous(pairs.detections))
    ranks, ignored = ranks_of(detections), without_crowds.ignore.numpy()
    matching = match(pairs, ranks, ignored[None], ignored, thresholds)
    result = np.full((len(ranks), len(thresholds)), FALSE_POSITIVE, dtype=np.int8)
    result[matching.detections] = matching.outcomes(ignored[None])[0].T
    return result


@dataclass(frozen=True)
class ImageMatching:
    """The outcomes of the detections and the objects of one image, on the CPU.

    Attributes:
        true_positive: detections that found an object, at most one for each object.
        ignored: detections of a difficult object or inside a crowd, neither right nor wrong.
        objects: index of the object that each detection is matched with, -1 for none; an ignored
            detection has the difficult object or crowd.
        found: objects with a true positive.
    """

    true_positive: Bool[Tensor, " N"]
    ignored: Bool[Tensor, " N"]
    objects: Int[Tensor, " N"]
    found: Bool[Tensor, " G"]


def match_image(
    detections: Detections, ground_truth: GroundTruth, min_iou: float = 0.5
) -> ImageMatching:
    """Match the detections of one image with the objects of their class, by COCO's rule.

    A difficult object (as a crowd does) takes any number of detections, so that a second detection
    of it is no false positive.

    Args:
        detections: in the pixels of the ground truth.
        ground_truth: of the same image.
        min_iou: smallest IoU of a match; for a crowd the smallest share of the detection inside it.
    """
    detections, ground_truth = detections.to("cpu"), ground_truth.to("cpu")
    flat = FlatDetections(
        boxes=detections.boxes,
        scores=detections.scores.detach(),
        labels=detections.labels,
        counts=torch.tensor([len(detections)]),
    )
    objects = FlatObjects(
        boxes=ground_truth.boxes,
        labels=ground_truth.labels,
        ignore=ground_truth.difficult,
        crowd=ground_truth.crowd,
        areas=ground_truth.areas,
        counts=torch.tensor([len(ground_truth)]),
    )
    ignored = ~objects.counted.numpy()
    pairs = overlapping_pairs(flat, objects, min_iou)
    matching = match(pairs, ranks_of(flat), ignored[None], ignored, np.array([min_iou]))
    matched = torch.full((len(detections),), -1)
    matched[matching.detections] = torch.from_numpy(matching.objects[0, 0]).long()
    outcomes = torch.full((len(detections),), FALSE_POSITIVE, dtype=torch.int8)
    outcomes[matching.detections] = torch.from_numpy(matching.outcomes(ignored[None])[0, 0])
    true_positive = outcomes == TRUE_POSITIVE
    found = torch.zeros(len(ground_truth), dtype=torch.bool)
    found[matched[true_positive]] = True
    return ImageMatching(true_positive, outcomes == IGNORED, matched, found)
