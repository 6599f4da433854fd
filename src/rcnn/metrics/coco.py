"""Average precision and recall as COCO measures them.

Letters: D detections and G objects of all images, N ranked detections of one class, K classes,
T ten IoU thresholds 0.5:0.95, R 101 recall levels, A four ranges of area (all, small, medium,
large), M three limits of detections per image and class (1, 10, 100).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from rcnn.metrics.inputs import ClassMetric, FlatDetections, FlatObjects
from rcnn.metrics.matching import (
    FALSE_POSITIVE,
    IGNORED,
    IOU_THRESHOLDS,
    TRUE_POSITIVE,
    ignore_in_regions,
    match,
    outcomes_of,
    overlapping_pairs,
    ranks_of,
)
from rcnn.ops.boxes import area

AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Square pixels, both ends included."""

DETECTION_LIMITS = (1, 10, 100)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
IOU_50, IOU_75 = 0, 5


class COCOCurves(NamedTuple):
    """Precision at each recall level with at most 100 detections, and final recall with each limit.

    Both are NaN where no object has to be found.
    """

    precision: Float[np.ndarray, "T R K A"]
    recall: Float[np.ndarray, "T K A M"]


def coco_curves(detections: FlatDetections, objects: FlatObjects, num_classes: int) -> COCOCurves:
    """Return the curves of all classes, matching the detections of all images at once.

    A crowd takes any number of detections that lie inside it. An ignored object takes one
    detection, by IoU. That is pycocotools' own rule for objects outside the range of areas in
    question (it overwrites the ``ignore`` of an annotation by ``iscrowd``). In a region of unknown
    class there is no false positive of any class.

    Args:
        detections: of whole images.
        objects: of the same images.
        num_classes: K.
    """
    ranked, _ = detections.ranked()
    ranks, crowd = ranks_of(ranked), objects.crowd.numpy()
    # Beyond the largest limit nothing takes part.
    pairs = overlapping_pairs(ranked, objects, IOU_THRESHOLDS.min())
    pairs = pairs.take(ranks[pairs.detections] < DETECTION_LIMITS[-1])
    ignored = ~objects.counted.numpy() | _outside_ranges(objects.areas.double().numpy())
    outcomes = np.stack(
        [
            outcomes_of(match(pairs, len(ranks), in_range, crowd, IOU_THRESHOLDS), in_range)
            for in_range in ignored
        ]
    )
    # A detection without an object counts in its own range of areas only.
    outside = _outside_ranges(area(ranked.boxes.double()).numpy())
    outcomes[(outcomes == FALSE_POSITIVE) & outside[:, None]] = IGNORED
    ignore_in_regions(outcomes, ranked, objects, IOU_THRESHOLDS)
    outcomes[..., ranks >= DETECTION_LIMITS[-1]] = IGNORED

    labels, object_labels = ranked.labels.numpy(), objects.labels.numpy()
    by_class = np.lexsort((-ranked.scores.numpy(), labels))
    outcomes, ranks = outcomes[..., by_class], ranks[by_class]
    ends = np.searchsorted(labels[by_class], np.arange(1, num_classes + 2))
    shape = (len(IOU_THRESHOLDS), len(RECALL_LEVELS), num_classes, len(AREA_RANGES))
    precision = np.full(shape, np.nan)
    recall = np.full((shape[0], *shape[2:], len(DETECTION_LIMITS)), np.nan)
    for k in range(num_classes):
        of_class = slice(ends[k], ends[k + 1])
        num_objects = (~ignored[:, object_labels == k + 1]).sum(axis=1).tolist()
        for a, to_find in enumerate(num_objects):
            if to_find == 0:
                continue
            of_range = outcomes[a, :, of_class]
            precision[:, :, k, a] = interpolated_precision(of_range, to_find)
            for m, limit in enumerate(DETECTION_LIMITS):
                found = of_range[:, ranks[of_class] < limit] == TRUE_POSITIVE
                recall[:, k, a, m] = found.sum(axis=1) / to_find
    return COCOCurves(precision, recall)


def interpolated_precision(
    ranked: Int8[np.ndarray, "T N"], num_objects: int
) -> Float[np.ndarray, "T R"]:
    """Return the best precision at each recall level or a higher recall, 0 where none is reached.

    Args:
        ranked: outcomes (``rcnn.metrics.matching``) of one class, best score first.
        num_objects: number of objects that have to be found, at least 1.
    """
    # Recall grows at true positives only, so that precision is needed nowhere else.
    found_before = np.searchsorted(np.arange(1, num_objects + 1) / num_objects, RECALL_LEVELS)
    counted = (ranked != IGNORED).cumsum(axis=1, dtype=np.int32)
    result = np.zeros((len(ranked), len(RECALL_LEVELS)))
    for row, outcomes in enumerate(ranked):
        at = np.flatnonzero(outcomes == TRUE_POSITIVE)
        precision = np.arange(1, len(at) + 1) / counted[row, at]
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        # A level that is never reached has the appended zero.
        result[row] = np.append(envelope, 0.0)[np.minimum(found_before, len(at))]
    return result


def _outside_ranges(sizes: Float[np.ndarray, " N"]) -> Bool[np.ndarray, "A N"]:
    return np.stack([(sizes < low) | (sizes > high) for low, high in AREA_RANGES.values()])


class COCOAveragePrecision(ClassMetric):
    """The twelve numbers of COCO's detection challenge, in 0..1, and the APs of the classes.

    ``compute()`` returns scalars ``map`` (IoU 0.5:0.95), ``map_50``, ``map_75``, ``map_small``,
    ``map_medium``, ``map_large`` (below 32² pixels, to 96², above), ``mar_1``, ``mar_10``,
    ``mar_100`` (average recall with so many detections per image and class), ``mar_small``,
    ``mar_medium``, ``mar_large``, and tensors (K,) ``map_per_class`` and ``map_50_per_class``.
    What is not defined, as for a class or a size without objects, is NaN (pycocotools: -1).

    Objects marked ``ignore`` or ``crowd`` need not be found, see ``coco_curves``.
    ``compute`` needs at most some 300 bytes per detection while it runs.

    Source: https://cocodataset.org/#detection-eval

    Args:
        class_names: the names of the classes 1..K, or K.

    Raises:
        ValueError: there is no class.
    """

    def compute(self) -> dict[str, Tensor]:
        """Return the numbers by name, see the class."""
        curves = coco_curves(self.detections(), self.objects(), len(self.class_names))
        precision, recall = map(torch.from_numpy, curves)
        values = {
            "map": precision[..., 0],
            "map_50": precision[IOU_50, ..., 0],
            "map_75": precision[IOU_75, ..., 0],
        }
        values |= {f"map_{size}": precision[..., a] for a, size in enumerate(AREA_RANGES) if a > 0}
        values |= {f"mar_{k}": recall[..., 0, m] for m, k in enumerate(DETECTION_LIMITS)}
        values |= {f"mar_{size}": recall[..., a, -1] for a, size in enumerate(AREA_RANGES) if a > 0}
        result = {name: of_all.nanmean() for name, of_all in values.items()}
        for name in ("map", "map_50"):
            result[f"{name}_per_class"] = values[name].flatten(0, -2).nanmean(dim=0)
        return {name: value.float().to(self.device) for name, value in result.items()}
