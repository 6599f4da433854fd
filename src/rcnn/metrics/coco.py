"""Average precision and recall as COCO measures them, by faster-coco-eval.

Letters: K classes, T ten overlap thresholds 0.5:0.95, R 101 recall levels, A four ranges of area
(all, small, medium, large), M three limits of detections per image and class (1, 10, 100).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.metrics.flat import FlatDetections, FlatObjects
from rcnn.metrics.inputs import Images, class_names_of, read_update
from rcnn.metrics.state import DetectionMetric

AREA_RANGES = ("all", "small", "medium", "large")
DETECTION_LIMITS = (1, 10, 100)
IOU_50, IOU_75 = 0, 5
AREA_OUTSIDE_ALL_RANGES = 1e11
NO_DETECTIONS, NO_OBJECTS = read_update([], [], num_classes=None)


class COCOCurves(NamedTuple):
    """Precision at each recall level and final recall, NaN where there is nothing to be found."""

    precision: Float[np.ndarray, "T R K A M"]
    recall: Float[np.ndarray, "T K A M"]


def coco_curves(detections: FlatDetections, objects: FlatObjects, num_classes: int) -> COCOCurves:
    """Run COCO's evaluation in memory.

    A crowd absorbs any number of detections that lie inside it. An ignored object absorbs one
    detection, by IoU. That is pycocotools' own rule for objects outside the range of areas in
    question; it overwrites the ``ignore`` of an annotation by ``iscrowd``, so an ignored object is
    given an area outside every range here.

    Args:
        detections: of whole images.
        objects: of the same images.
        num_classes: K.
    """
    # Only those who compute this metric pay for the import.
    from faster_coco_eval import COCO, COCOeval_faster

    if not bool(objects.counted.any()):
        shape = (10, 101, num_classes, len(AREA_RANGES), len(DETECTION_LIMITS))
        return COCOCurves(np.full(shape, np.nan), np.full((shape[0], *shape[2:]), np.nan))
    areas = torch.where(objects.ignore, AREA_OUTSIDE_ALL_RANGES, objects.areas.double())
    truth = _annotations(objects, {"area": areas, "iscrowd": objects.crowd.long()})
    sides = detections.boxes[:, 2:].double() - detections.boxes[:, :2].double()
    found = _annotations(detections, {"area": sides.prod(dim=1), "score": detections.scores})
    dataset = {
        "images": [{"id": image} for image in range(1, 1 + len(objects.counts))],
        "categories": [{"id": label} for label in range(1, 1 + num_classes)],
    }
    evaluation = COCOeval_faster(
        COCO({**dataset, "annotations": truth}),
        COCO({**dataset, "annotations": found}),
        iouType="bbox",
        print_function=lambda *_: None,
    )
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    return COCOCurves(
        precision=np.where(precision < 0, np.nan, precision),
        recall=np.where(recall < 0, np.nan, recall),
    )


def _annotations(
    flat: FlatDetections | FlatObjects, columns: dict[str, Tensor]
) -> list[dict[str, object]]:
    """COCO's form of the boxes: numbered from 1 (0 would mean unmatched), (x, y, width, height)."""
    corners = flat.boxes.double()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
    common = {"image_id": flat.images + 1, "category_id": flat.labels, "bbox": boxes}
    names = ("id", *common, *columns)
    # numpy's tolist is several times as fast as torch's.
    values = [column.numpy().tolist() for column in (common | columns).values()]
    return [
        dict(zip(names, row, strict=True))
        for row in zip(range(1, 1 + len(boxes)), *values, strict=True)
    ]


def _mean(values: Float[np.ndarray, "..."]) -> float:
    """The mean of those that are defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


class COCOAveragePrecision(DetectionMetric):
    """The twelve numbers of COCO's detection challenge, in 0..1, and the APs of the classes.

    ``compute()`` returns scalars ``map`` (IoU 0.5:0.95), ``map_50``, ``map_75``, ``map_small``,
    ``map_medium``, ``map_large`` (below 32² pixels, to 96², above), ``mar_1``, ``mar_10``,
    ``mar_100`` (average recall with so many detections per image and class), ``mar_small``,
    ``mar_medium``, ``mar_large``, and tensors (K,) ``map_per_class`` and ``map_50_per_class``.
    What is not defined, as for a class or a size without objects, is NaN (pycocotools: -1).

    Objects marked ``ignore`` or ``crowd`` are neither hit nor miss, see ``coco_curves``.
    All boxes are kept until ``compute``, which takes about 1.5 kB per detection while it runs.

    Source: https://cocodataset.org/#detection-eval

    Args:
        class_names: the names of the classes 1..K, or K.

    Raises:
        ValueError: there is no class.
    """

    def __init__(self, class_names: Sequence[str] | int) -> None:
        super().__init__()
        self.class_names = class_names_of(class_names)
        for side, nothing in (("detection", NO_DETECTIONS), ("object", NO_OBJECTS)):
            for name, column in vars(nothing).items():
                self.add_table(f"{side}_{name}", column.dtype, columns=column.shape[1:])

    def update(self, predictions: Images, targets: Images) -> None:
        """Add images.

        Args:
            predictions: per image ``boxes`` (N, 4), ``scores`` (N,), ``labels`` (N,).
            targets: per image ``boxes`` (M, 4), ``labels`` (M,), if wanted ``ignore`` (M,) bool,
                ``crowd`` (M,) bool and ``area`` (M,) in square pixels (by default the box's).

        Raises:
            ValueError: a key is missing or a value is wrong; names it and the image's position.
        """
        sides = read_update(predictions, targets, len(self.class_names))
        for side, flat in zip(("detection", "object"), sides, strict=True):
            for name, column in vars(flat).items():
                getattr(self, f"{side}_{name}").append(column)

    def compute(self) -> dict[str, Tensor]:
        """Return the numbers by name, see the class."""
        precision, recall = coco_curves(
            FlatDetections(
                **{name: self.table(f"detection_{name}") for name in vars(NO_DETECTIONS)}
            ),
            FlatObjects(**{name: self.table(f"object_{name}") for name in vars(NO_OBJECTS)}),
            len(self.class_names),
        )
        best = precision[..., -1]
        values = {
            "map": best[..., 0],
            "map_50": best[IOU_50, ..., 0],
            "map_75": best[IOU_75, ..., 0],
        }
        values |= {f"map_{size}": best[..., a] for a, size in enumerate(AREA_RANGES) if a > 0}
        values |= {f"mar_{k}": recall[..., 0, m] for m, k in enumerate(DETECTION_LIMITS)}
        values |= {f"mar_{size}": recall[..., a, -1] for a, size in enumerate(AREA_RANGES) if a > 0}
        result = {name: torch.tensor(_mean(of_all)) for name, of_all in values.items()}
        for name in ("map", "map_50"):
            per_class = np.moveaxis(values[name], -1, 0)
            result[f"{name}_per_class"] = torch.tensor([_mean(of_class) for of_class in per_class])
        return {name: value.to(self.device) for name, value in result.items()}
