"""Which detections have found an object, by the rule of the PASCAL VOC devkit.

Letters: D detections and G objects of all images, T overlap thresholds.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int8

from rcnn.metrics.flat import FlatDetections, FlatObjects
from rcnn.metrics.overlap import iou, pairs_within_groups

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
