"""What kinds of mistakes a detector makes, as counts.

Letters: D detections and G objects of all images, K classes, E kinds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rcnn.metrics.flat import FlatDetections, FlatObjects
from rcnn.metrics.inputs import Images, class_names_of, read_update
from rcnn.metrics.matching import HIT, NOT_COUNTED, outcomes
from rcnn.metrics.overlap import iou, pairs_within_groups
from rcnn.metrics.state import DetectionMetric

KINDS = ("hit", "duplicate", "classification", "localisation", "both", "background", "missed")
_HIT, _DUPLICATE, _CLASSIFICATION, _LOCALISATION, _BOTH, _BACKGROUND, _MISSED = range(len(KINDS))


class Verdicts(NamedTuple):
    """The kind of each detection (a place in ``KINDS``, -1 not counted); the objects missed."""

    kinds: Int[np.ndarray, " D"]
    missed: Bool[np.ndarray, " G"]


def judge(
    detections: FlatDetections,
    objects: FlatObjects,
    iou_threshold: float = 0.5,
    background_iou: float = 0.1,
) -> Verdicts:
    """Give each detection that is no hit the first of these reasons that holds.

    - duplicate: covers an object of its class that a better scored detection has found,
    - classification: covers an object of another class,
    - localisation: touches an object of its class,
    - both: touches an object of another class,
    - background: touches nothing.

    To cover means an IoU of at least ``iou_threshold``, to touch one of at least
    ``background_iou``. An object is missed if it has no hit and is not the best covered or touched
    one of a classification or localisation error. Ignored objects and crowds explain nothing, and
    a detection of one is not counted (``rcnn.metrics.matching.outcomes``).

    Source: Bolya et al., TIDE, ECCV 2020, section 2.2, which measures the effect on AP; these are
    counts.
    """
    fates = outcomes(detections, objects, [iou_threshold])[:, 0]
    pairs = pairs_within_groups(detections.images.numpy(), objects.images.numpy())
    counted = objects.counted.numpy()
    of_detection, of_object = (places[counted[pairs.objects]] for places in pairs)
    overlaps = iou(detections.boxes.numpy()[of_detection], objects.boxes.numpy()[of_object])
    same_class = detections.labels.numpy()[of_detection] == objects.labels.numpy()[of_object]
    best_same, best_other = np.zeros(len(fates)), np.zeros(len(fates))
    np.maximum.at(best_same, of_detection[same_class], overlaps[same_class])
    np.maximum.at(best_other, of_detection[~same_class], overlaps[~same_class])

    reasons = {
        NOT_COUNTED: fates == NOT_COUNTED,
        _HIT: fates == HIT,
        _DUPLICATE: best_same >= iou_threshold,
        _CLASSIFICATION: best_other >= iou_threshold,
        _LOCALISATION: best_same >= background_iou,
        _BOTH: best_other >= background_iou,
    }
    kinds = np.select(list(reasons.values()), list(reasons), default=_BACKGROUND)

    kind = kinds[of_detection]
    by_own_class = same_class & ((kind == _HIT) | (kind == _LOCALISATION))
    by_other_class = ~same_class & (kind == _CLASSIFICATION)
    explains = (by_own_class & (overlaps == best_same[of_detection])) | (
        by_other_class & (overlaps == best_other[of_detection])
    )
    _, first = np.unique(of_detection[explains], return_index=True)
    missed = counted.copy()
    missed[of_object[explains][first]] = False
    return Verdicts(kinds, missed)


class DetectionErrors(DetectionMetric):
    """Counts of hits and of the kinds of error of the detections above a score.

    ``compute()`` returns for each of ``hit``, ``duplicate``, ``classification``, ``localisation``,
    ``both``, ``background`` (detections, see ``judge``) and ``missed`` (objects) the number
    ``errors_<kind>`` and a tensor (K,) ``errors_<kind>_per_class``, by the label of the detection,
    or of the object for ``missed``.

    Args:
        class_names: the names of the classes 1..K, or K.
        min_score: detections below take no part.
        iou_threshold: the overlap by which an object is covered.
        background_iou: the overlap by which an object is touched.

    Raises:
        ValueError: ``0 < background_iou < iou_threshold <= 1`` does not hold, or no class.
    """

    higher_is_better = None
    counts: Tensor

    def __init__(
        self,
        class_names: Sequence[str] | int,
        min_score: float = 0.5,
        iou_threshold: float = 0.5,
        background_iou: float = 0.1,
    ) -> None:
        super().__init__()
        self.class_names = class_names_of(class_names)
        if not 0 < background_iou < iou_threshold <= 1:
            raise ValueError(
                f"background_iou is {background_iou!r} and iou_threshold {iou_threshold!r}: "
                "allowed is 0 < background_iou < iou_threshold <= 1."
            )
        self.min_score = min_score
        self.iou_threshold, self.background_iou = iou_threshold, background_iou
        counts = torch.zeros((len(KINDS), len(self.class_names)), dtype=torch.int64)
        self.add_state("counts", default=counts, dist_reduce_fx="sum")

    def update(self, predictions: Images, targets: Images) -> None:
        """Add images.

        Args:
            predictions: per image ``boxes`` (N, 4), ``scores`` (N,), ``labels`` (N,).
            targets: per image ``boxes`` (M, 4), ``labels`` (M,), if wanted ``ignore`` (M,) and
                ``crowd`` (M,) bool.

        Raises:
            ValueError: a key is missing or a value is wrong; names it and the image's position.
        """
        detections, objects = read_update(predictions, targets, len(self.class_names))
        detections = detections.above(self.min_score)
        kinds, missed = judge(detections, objects, self.iou_threshold, self.background_iou)
        counts = np.zeros(tuple(self.counts.shape), dtype=np.int64)
        took_part = kinds != NOT_COUNTED
        np.add.at(counts, (kinds[took_part], detections.labels.numpy()[took_part] - 1), 1)
        np.add.at(counts, (_MISSED, objects.labels.numpy()[missed] - 1), 1)
        self.counts += torch.from_numpy(counts).to(self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Return the counts by name, see the class."""
        result = {}
        for kind, per_class in zip(KINDS, self.counts, strict=True):
            result[f"errors_{kind}"] = per_class.sum()
            result[f"errors_{kind}_per_class"] = per_class.clone()
        return result
