"""Which detection is matched with which object: the rules of COCO and of PASCAL VOC.

For the pictures of ``rcnn.view``: ``match_image`` matches the detections of one image.

Letters: D detections and G objects of all images, P pairs of them, A ranges of object area, T IoU
thresholds.

Images hold different numbers of boxes, so the pairs that can match are listed instead of padded: a
detection with the objects of its own image and class. Overlaps are float64, in which the areas of
boxes in whole pixels are exact: rounding does not decide whether an overlap reaches a threshold.
"""

from __future__ import annotations

from dataclasses import replace
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

OBJECTS_AT_ONCE = 1 << 12
"""Objects with pairs that are listed together, so that crowded images do not fill the memory."""


class Pairs(NamedTuple):
    """Pairs of a detection and an object of the same image and class.

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


def overlapping_pairs(
    ranked: FlatDetections, objects: FlatObjects, min_overlap: float, plus_one: bool = False
) -> Pairs:
    """List the pairs that overlap enough.

    They come by detection, and those of one detection by overlap, the largest first (of equals the
    last object).

    Args:
        ranked: detections of whole images, see ``FlatDetections.ranked``.
        objects: of the same images.
        min_overlap: smallest overlap of a pair, 0..1.
        plus_one: whether x2 and y2 are the last pixel inside a box, so that a width is
            ``x2 - x1 + 1`` (the rule of the VOC devkit for its integer pixel indices).
    """
    boxes, object_boxes = ranked.boxes.double(), objects.boxes.double()
    if plus_one:
        last_pixel = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        boxes, object_boxes = boxes + last_pixel, object_boxes + last_pixel
    groups, object_groups = ranked.groups.numpy(), objects.groups.numpy()
    first = np.searchsorted(groups, object_groups, side="left")
    sizes = np.searchsorted(groups, object_groups, side="right") - first
    parts = []
    for start in range(0, max(len(sizes), 1), OBJECTS_AT_ONCE):
        some = slice(start, start + OBJECTS_AT_ONCE)
        of_object = start + np.repeat(np.arange(len(sizes[some])), sizes[some])
        # The first pair of an object is with the first detection of its group, and so on.
        offsets = np.repeat(first[some] - (np.cumsum(sizes[some]) - sizes[some]), sizes[some])
        of_detection = np.arange(len(of_object)) + offsets
        # A batch of 1 x 1 tables: every box with its partner only.
        a = boxes.index_select(0, torch.from_numpy(of_detection))[:, None]
        b = object_boxes.index_select(0, torch.from_numpy(of_object))[:, None]
        overlaps = iou(a, b).flatten().numpy()
        if (in_crowd := objects.crowd.numpy()[of_object]).any():
            overlaps[in_crowd] = coverage(a[in_crowd], b[in_crowd]).flatten().numpy()
        parts.append(Pairs(of_detection, of_object, overlaps).take(overlaps >= min_overlap))
    pairs = Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return pairs.take(np.lexsort((-pairs.objects, -pairs.overlaps, pairs.detections)))


def ranks_of(ranked: FlatDetections) -> Int[np.ndarray, " D"]:
    """Return the rank of each detection in its image and class, 0 for the best score."""
    index = np.arange(len(ranked.labels))
    return index - np.maximum.accumulate(index * _differs_from_previous(ranked.groups.numpy()))


def match(
    pairs: Pairs,
    num_detections: int,
    ignored: Bool[np.ndarray, " G"],
    shared: Bool[np.ndarray, " G"],
    thresholds: Float[np.ndarray, " T"],
) -> Int[np.ndarray, "T D"]:
    """Return the index of the object of each detection at each threshold, -1 for none.

    In each image and class the detections choose, the best score first. Each takes the free object
    that it overlaps most (the last of equals), if the overlap reaches the threshold. An object that
    has to be found comes before an ignored one, whatever the overlaps.

    Source: ``COCOeval.evaluateImg`` of pycocotools, which goes through the detections one by one.
    Here all of them ask at once for the object that they prefer, each object keeps the one of best
    rank, and the rejected ask for their next (Gale and Shapley, College Admissions and the
    Stability of Marriage, 1962). All objects rank the detections alike, so that only one matching
    is stable, and both ways lead to it; this one in a few rounds.

    Args:
        pairs: in the order of ``overlapping_pairs``.
        num_detections: D.
        ignored: objects that need not be found.
        shared: objects that any number of detections may take.
        thresholds: IoU, each with a matching of its own.
    """
    by_preference = 2 * pairs.detections + ignored[pairs.objects]
    pairs = pairs.take(np.argsort(by_preference, kind="stable"))
    # A choice is a pair at one threshold; the choices of one detection follow each other.
    threshold, pair = np.nonzero(pairs.overlaps >= thresholds[:, None])
    objects = pairs.objects[pair]
    slots = threshold * len(shared) + objects
    owners = threshold * num_detections + pairs.detections[pair]
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
    result = np.full((len(thresholds), num_detections), -1, dtype=np.int32)
    result.flat[owners[starts[matched]]] = objects[current[matched]]
    return result


def outcomes_of(
    matched: Int[np.ndarray, "T D"], ignored: Bool[np.ndarray, " G"]
) -> Int8[np.ndarray, "T D"]:
    """Return TRUE_POSITIVE, FALSE_POSITIVE or IGNORED for each detection.

    Args:
        matched: index of the object of each detection, -1 for none.
        ignored: objects that need not be found.
    """
    of_object = np.where(ignored, IGNORED, TRUE_POSITIVE)
    # The appended one is that of index -1.
    outcomes: Int8[np.ndarray, "T D"] = np.append(of_object, FALSE_POSITIVE)[matched]
    return outcomes.astype(np.int8)


def ignore_in_regions(
    outcomes: Int8[np.ndarray, "*A T D"],
    ranked: FlatDetections,
    objects: FlatObjects,
    thresholds: Float[np.ndarray, " T"],
) -> None:
    """Make IGNORED of the false positives that lie in a region of unknown class, of any class.

    A detection lies in a region if the share of its area inside the region reaches the threshold.

    Args:
        outcomes: changed in place.
        ranked: detections of whole images, see ``FlatDetections.ranked``.
        objects: of the same images; crowds of label 0 are regions of unknown class.
        thresholds: IoU.
    """
    if not (objects.labels == 0).any():
        return
    of_no_class = replace(ranked, labels=torch.zeros_like(ranked.labels))
    pairs = overlapping_pairs(of_no_class, objects, thresholds.min())
    inside = np.zeros(outcomes.shape[-1])
    np.maximum.at(inside, pairs.detections, pairs.overlaps)
    outcomes[(outcomes == FALSE_POSITIVE) & (inside >= thresholds[:, None])] = IGNORED


def voc_outcomes(
    ranked: FlatDetections,
    objects: FlatObjects,
    thresholds: Float[np.ndarray, " T"],
    plus_one: bool = False,
) -> Int8[np.ndarray, "T D"]:
    """Return TRUE_POSITIVE, FALSE_POSITIVE or IGNORED for each detection, by the rule of VOC.

    The only object that a detection can be matched with is the one of its class and image that it
    overlaps most (the first of equals), taken or not, difficult or not. Below the threshold the
    detection is a false positive; if the object is difficult it is ignored; else the best scored
    detection of an object (the first of equals) is the true positive, and every further one a false
    positive. Crowd regions, which VOC does not have, are treated like difficult objects, and those
    of unknown class as ``ignore_in_regions`` says.

    Source: VOCevaldet.m of the devkit.

    Args:
        ranked: detections of whole images, see ``FlatDetections.ranked``.
        objects: of the same images.
        thresholds: smallest IoU of a match, each with a matching of its own.
        plus_one: whether boxes are inclusive pixel indices, see ``overlapping_pairs``.
    """
    without_crowds = replace(objects, crowd=torch.zeros_like(objects.crowd))
    pairs = overlapping_pairs(ranked, without_crowds, thresholds.min(), plus_one)
    pairs = pairs.take(np.lexsort((pairs.objects, -pairs.overlaps, pairs.detections)))
    pairs = pairs.take(_differs_from_previous(pairs.detections))
    ignored = ~objects.counted.numpy()
    result = outcomes_of(match(pairs, len(ranked.labels), ignored, ignored, thresholds), ignored)
    ignore_in_regions(result, ranked, objects, thresholds)
    return result


def match_image(
    detections: Detections, ground_truth: GroundTruth, min_iou: float = 0.5
) -> tuple[Int8[Tensor, " N"], Bool[Tensor, " G"]]:
    """Match the detections of one image with the objects of their class, by COCO's rule.

    A difficult object (as a crowd does) takes any number of detections, so that a second detection
    of it is no false positive.

    Args:
        detections: in the pixels of the ground truth.
        ground_truth: of the same image.
        min_iou: smallest IoU of a match; for a crowd the smallest share of the detection inside it.

    Returns:
        The outcome of each detection (TRUE_POSITIVE, FALSE_POSITIVE or IGNORED), and whether each
        object has a true positive; both on the CPU.
    """
    one, truth = detections.to("cpu"), ground_truth.to("cpu")
    counts, num_objects = torch.tensor([len(one)]), torch.tensor([len(truth)])
    ranked, order = FlatDetections(one.boxes, one.labels, counts, one.scores.detach()).ranked()
    objects = FlatObjects(
        truth.boxes, truth.labels, num_objects, truth.difficult, truth.crowd, truth.areas
    )
    ignored, thresholds = ~objects.counted.numpy(), np.array([min_iou])
    pairs = overlapping_pairs(ranked, objects, min_iou)
    matched = match(pairs, len(one), ignored, ignored, thresholds)
    outcomes = outcomes_of(matched, ignored)
    ignore_in_regions(outcomes, ranked, objects, thresholds)
    found = torch.zeros(len(truth), dtype=torch.bool)
    found[matched[outcomes == TRUE_POSITIVE]] = True
    return torch.from_numpy(outcomes[0])[order.argsort()], found


def _differs_from_previous(values: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    result = np.ones(len(values), dtype=bool)
    result[1:] = values[1:] != values[:-1]
    return result
