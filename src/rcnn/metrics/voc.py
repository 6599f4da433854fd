"""Average precision as the PASCAL VOC challenges measure it.

Letters: N detections of one class, K classes.

A detection's fate depends on its own image only, so it is settled in ``update``; what stays is a
score, a label and an outcome per detection. ``compute`` ranks them over all images.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor

from rcnn.metrics.inputs import DetectionMetric, Images, class_names_of, read_update
from rcnn.metrics.matching import HIT, NOT_COUNTED, outcomes


def every_point_ap(ranked: Int8[np.ndarray, " N"], num_objects: int) -> float:
    """Return the area under the precision envelope (VOC2010 and later).

    Args:
        ranked: outcomes (``rcnn.metrics.matching``) of one class, best score first.
        num_objects: those to be found; with none the AP is NaN.
    """
    if num_objects == 0:
        return float("nan")
    counted = ranked[ranked != NOT_COUNTED]
    # Recall grows by 1 / num_objects at each hit and nowhere else.
    return float(_precision_envelope(counted)[counted == HIT].sum()) / num_objects


def eleven_point_ap(ranked: Int8[np.ndarray, " N"], num_objects: int) -> float:
    """Return the mean precision at recall 0, 0.1, ..., 1 (VOC2007).

    The levels are floating-point multiples of 0.1, and 0.3, 0.6 and 0.7 come out one rounding
    error too high: 3 of 10 objects do not reach recall 0.3. Published figures have this in them
    (the example of Padilla et al. depends on it), so it is kept.

    Args:
        ranked: outcomes (``rcnn.metrics.matching``) of one class, best score first.
        num_objects: those to be found; with none the AP is NaN.
    """
    if num_objects == 0:
        return float("nan")
    counted = ranked[ranked != NOT_COUNTED]
    recall = np.cumsum(counted == HIT) / num_objects
    reached_at = np.searchsorted(recall, np.linspace(0, 1, 11), side="left")
    # A level that is never reached has precision 0, the appended place.
    return float(np.append(_precision_envelope(counted), 0.0)[reached_at].mean())


def _precision_envelope(counted: Int8[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The best precision at each rank or a later one."""
    precision = np.cumsum(counted == HIT) / np.arange(1, len(counted) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


class VOCAveragePrecision(DetectionMetric):
    """AP of the PASCAL VOC challenges: 11-point (VOC2007) and every point (VOC2010 on), in 0..1.

    ``compute()`` returns scalars ``voc_map`` and ``voc07_map`` and tensors (K,)
    ``voc_ap_per_class`` and ``voc07_ap_per_class``. A class without objects is NaN and is left out
    of the means. With several thresholds these names belong to the first, and each further one has
    the same four with its percentage: ``voc_map_75``, ``voc_ap_per_class_75``, ...

    Objects marked ``ignore`` (difficult) or ``crowd`` are neither hit nor miss, see
    ``rcnn.metrics.matching.outcomes``. Detections of equal score rank in the order of the updates,
    within an image in the order given.

    Source: Everingham et al., The PASCAL VOC Challenge, IJCV 2010, section 4.2, and the devkit.

    Args:
        class_names: the names of the classes 1..K, or K.
        iou_threshold: the overlap from which on an object is found, or several.
        plus_one: whether boxes are inclusive pixel indices (width ``x2 - x1 + 1``), as in the
            devkit's files. Boxes of this project are continuous: VOC's 1-based (x1, y1, x2, y2)
            is read as (x1 - 1, y1 - 1, x2, y2), which has the devkit's width without the +1.

    Raises:
        ValueError: a threshold is outside (0, 1], or there is no class.
    """

    scores: list[Tensor]
    labels: list[Tensor]
    outcomes: list[Tensor]
    num_objects: Tensor

    def __init__(
        self,
        class_names: Sequence[str] | int,
        iou_threshold: float | Sequence[float] = 0.5,
        plus_one: bool = False,
    ) -> None:
        super().__init__()
        self.class_names = class_names_of(class_names)
        self.iou_thresholds: tuple[float, ...] = (
            tuple(iou_threshold) if isinstance(iou_threshold, Sequence) else (iou_threshold,)
        )
        if not self.iou_thresholds or not all(0 < value <= 1 for value in self.iou_thresholds):
            raise ValueError(f"iou_threshold is {iou_threshold!r}: allowed is above 0, at most 1.")
        self.plus_one = plus_one
        self.add_table("scores", torch.float32)
        self.add_table("labels", torch.int64)
        self.add_table("outcomes", torch.int8, columns=(len(self.iou_thresholds),))
        num_objects = torch.zeros(len(self.class_names), dtype=torch.int64)
        self.add_state("num_objects", default=num_objects, dist_reduce_fx="sum")

    def update(self, predictions: Images, targets: Images) -> None:
        """Add images.

        Args:
            predictions: per image ``boxes`` (N, 4), ``scores`` (N,), ``labels`` (N,).
            targets: per image ``boxes`` (M, 4), ``labels`` (M,), if wanted ``ignore`` (M,) bool.

        Raises:
            ValueError: a key is missing or a value is wrong; names it and the image's position.
        """
        detections, objects = read_update(predictions, targets, len(self.class_names))
        fates = outcomes(detections, objects, self.iou_thresholds, self.plus_one)
        self.scores.append(detections.scores)
        self.labels.append(detections.labels)
        self.outcomes.append(torch.from_numpy(fates))
        to_find = objects.labels[objects.counted] - 1
        counts = torch.bincount(to_find, minlength=len(self.class_names))
        self.num_objects += counts.to(self.num_objects.device)

    def compute(self) -> dict[str, Tensor]:
        """Return the APs by name, see the class."""
        scores, labels = self.table("scores").numpy(), self.table("labels").numpy()
        order = np.lexsort((-scores, labels))
        class_starts = np.searchsorted(labels[order], np.arange(2, len(self.class_names) + 1))
        ranked = np.split(self.table("outcomes").numpy()[order], class_starts)
        totals = self.num_objects.tolist()
        result = {}
        for column, threshold in enumerate(self.iou_thresholds):
            suffix = "" if column == 0 else f"_{100 * threshold:g}"
            for name, average_precision in (("voc", every_point_ap), ("voc07", eleven_point_ap)):
                values = [
                    average_precision(of_class[:, column], total)
                    for of_class, total in zip(ranked, totals, strict=True)
                ]
                per_class = torch.tensor(values, dtype=torch.float32, device=self.device)
                result[f"{name}_map{suffix}"] = per_class.nanmean()
                result[f"{name}_ap_per_class{suffix}"] = per_class
        return result
