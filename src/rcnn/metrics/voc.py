"""Average precision as the PASCAL VOC challenges measure it.

Letters: N detections of one class, K classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor

from rcnn.metrics.inputs import ClassMetric
from rcnn.metrics.matching import IGNORED, TRUE_POSITIVE, voc_outcomes


def every_point_ap(ranked: Int8[np.ndarray, " N"], num_objects: int) -> float:
    """Return the area under the precision envelope (VOC2010 and later).

    Args:
        ranked: outcomes (``rcnn.metrics.matching``) of one class, best score first.
        num_objects: number of objects that have to be found; with none the AP is NaN.
    """
    if num_objects == 0:
        return float("nan")
    counted = ranked[ranked != IGNORED]
    # Recall grows by 1 / num_objects at each true positive and nowhere else.
    return float(_precision_envelope(counted)[counted == TRUE_POSITIVE].sum()) / num_objects


def eleven_point_ap(ranked: Int8[np.ndarray, " N"], num_objects: int) -> float:
    """Return the mean precision at recall 0, 0.1, ..., 1 (VOC2007).

    The levels are floating-point multiples of 0.1, and 0.3, 0.6 and 0.7 come out one rounding
    error too high: 3 of 10 objects do not reach recall 0.3. Published figures have this in them
    (the example of Padilla et al. depends on it), so it is kept.

    Args:
        ranked: outcomes (``rcnn.metrics.matching``) of one class, best score first.
        num_objects: number of objects that have to be found; with none the AP is NaN.
    """
    if num_objects == 0:
        return float("nan")
    counted = ranked[ranked != IGNORED]
    recall = np.cumsum(counted == TRUE_POSITIVE) / num_objects
    reached_at = np.searchsorted(recall, np.linspace(0, 1, 11), side="left")
    # A level that is never reached has the appended precision, 0.
    return float(np.append(_precision_envelope(counted), 0.0)[reached_at].mean())


def _precision_envelope(counted: Int8[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Return the best precision at each rank or a later one."""
    precision = np.cumsum(counted == TRUE_POSITIVE) / np.arange(1, len(counted) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


class VOCAveragePrecision(ClassMetric):
    """AP of the PASCAL VOC challenges: 11-point (VOC2007) and every point (VOC2010 on), in 0..1.

    ``compute()`` returns scalars ``voc_map`` and ``voc07_map`` and tensors (K,)
    ``voc_ap_per_class`` and ``voc07_ap_per_class``. A class without objects is NaN and is left out
    of the means. With several thresholds these names belong to the first, and each further one has
    the same four with its percentage: ``voc_map_75``, ``voc_ap_per_class_75``, ...

    Objects marked ``ignore`` (difficult) or ``crowd`` need not be found, see
    ``rcnn.metrics.matching.voc_outcomes``. Detections of equal score rank in the order of the
    updates, within an image in the order given.

    Source: Everingham et al., The PASCAL VOC Challenge, IJCV 2010, section 4.2, and the devkit.

    Args:
        class_names: the names of the classes 1..K, or K.
        iou_threshold: smallest IoU of a true positive, above 0 and at most 1, or several.
        plus_one: whether boxes are inclusive pixel indices (width ``x2 - x1 + 1``), as in the
            devkit's files. Boxes of this project are continuous: VOC's 1-based (x1, y1, x2, y2)
            is read as (x1 - 1, y1 - 1, x2, y2), which has the devkit's width without the +1.

    Raises:
        ValueError: a threshold is outside (0, 1], or there is no class.
    """

    def __init__(
        self,
        class_names: Sequence[str] | int,
        iou_threshold: float | Sequence[float] = 0.5,
        plus_one: bool = False,
    ) -> None:
        super().__init__(class_names)
        self.iou_thresholds: tuple[float, ...] = (
            tuple(iou_threshold) if isinstance(iou_threshold, Sequence) else (iou_threshold,)
        )
        if not self.iou_thresholds or not all(0 < value <= 1 for value in self.iou_thresholds):
            raise ValueError(f"iou_threshold is {iou_threshold!r}: allowed is above 0, at most 1.")
        self.plus_one = plus_one

    def compute(self) -> dict[str, Tensor]:
        """Return the APs by name, see the class."""
        (ranked, _), objects = self.detections().ranked(), self.objects()
        outcomes = voc_outcomes(ranked, objects, np.array(self.iou_thresholds), self.plus_one)
        scores, labels = ranked.scores.numpy(), ranked.labels.numpy()
        by_class = np.lexsort((-scores, labels))
        class_starts = np.searchsorted(labels[by_class], np.arange(2, len(self.class_names) + 1))
        of_classes = np.split(outcomes[:, by_class], class_starts, axis=1)
        to_find = objects.labels[objects.counted] - 1
        totals = torch.bincount(to_find, minlength=len(self.class_names)).tolist()
        result = {}
        for row, threshold in enumerate(self.iou_thresholds):
            suffix = "" if row == 0 else f"_{100 * threshold:g}"
            for name, average_precision in (("voc", every_point_ap), ("voc07", eleven_point_ap)):
                values = [
                    average_precision(of_class[row], total)
                    for of_class, total in zip(of_classes, totals, strict=True)
                ]
                per_class = torch.tensor(values, dtype=torch.float32, device=self.device)
                result[f"{name}_map{suffix}"] = per_class.nanmean()
                result[f"{name}_ap_per_class{suffix}"] = per_class
        return result
