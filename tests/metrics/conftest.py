"""Images and oracles that the tests of the metrics share."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

Images = list[dict[str, Tensor]]


@pytest.fixture
def stored() -> Callable[[str], Any]:
    """Reads a JSON file of the folder fixtures; each names its source and licence."""
    folder = Path(__file__).parent / "fixtures"
    return lambda name: json.loads((folder / name).read_text())


@pytest.fixture
def random_images() -> Callable[..., tuple[Images, Images]]:
    """Makes predictions and targets from a seed, with everything that is awkward.

    Coordinates are whole and scores have two digits, so that overlaps are equal, thresholds are met
    exactly and scores tie. Some images have no detection, some no object, and the last class has
    detections but no object. Detections are shifted objects, often several of one object.
    """

    def make(
        seed: int, num_images: int = 20, num_classes: int = 4, distinct_scores: bool = False
    ) -> tuple[Images, Images]:
        generator = torch.Generator().manual_seed(seed)

        def draw(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, generator=generator)

        predictions, targets = [], []
        for _ in range(num_images):
            num_objects = int(draw(0, 6))
            corners = draw(0, 100, num_objects, 2)
            sizes = draw(4, 150, num_objects, 2)
            objects = torch.cat([corners, corners + sizes], dim=1)
            labels = draw(1, max(2, num_classes), num_objects)

            copies = int(draw(0, 4)) if num_objects else 0
            near = (objects + draw(-6, 7, num_objects, 4)).repeat(copies, 1)
            anywhere = int(draw(0, 5))
            far = torch.cat([(at := draw(0, 100, anywhere, 2)), at + draw(1, 90, anywhere, 2)], 1)
            boxes = torch.cat([near, far])
            boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2])
            near_labels = labels.repeat(copies)
            wrong = draw(0, 10, len(near_labels)) == 0
            near_labels[wrong] = draw(1, num_classes + 1, int(wrong.sum()))
            scores = draw(0, 100, len(boxes)) / 100
            if distinct_scores:
                scores = torch.rand(len(boxes), generator=generator)
            predictions.append(
                {
                    "boxes": boxes.float(),
                    "scores": scores,
                    "labels": torch.cat([near_labels, draw(1, num_classes + 1, anywhere)]),
                }
            )
            targets.append(
                {
                    "boxes": objects.float(),
                    "labels": labels,
                    "ignore": draw(0, 4, num_objects) == 0,
                    "crowd": draw(0, 6, num_objects) == 0,
                    "area": sizes.prod(dim=1) * draw(5, 11, num_objects) / 10,
                }
            )
        return predictions, targets

    return make


class HonouringIgnore(COCOeval):  # type: ignore[misc]
    """pycocotools, which forgets the ignore flag when it prepares, reminded of it."""

    def _prepare(self) -> None:
        super()._prepare()
        for annotations in self._gts.values():
            for annotation in annotations:
                annotation["ignore"] = annotation["iscrowd"] or annotation["difficult"]


def evaluate(
    predictions: Images,
    targets: Images,
    num_classes: int,
    limits: list[int] | None = None,
    faster: bool = False,
) -> Any:
    """The evaluation of pycocotools, or of faster-coco-eval (which knows no ignored objects)."""

    def annotations(images: Images) -> list[dict[str, Any]]:
        return [
            {"image_id": number, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for number, image in enumerate(images, start=1)
            for (x1, y1, x2, y2), label in zip(
                image["boxes"].tolist(), image["labels"], strict=True
            )
        ]

    ground_truth, found = annotations(targets), annotations(predictions)
    for key, name in (("crowd", "iscrowd"), ("ignore", "difficult"), ("area", "area")):
        values = torch.cat([image[key] for image in targets]).tolist()
        for annotation, value in zip(ground_truth, values, strict=True):
            annotation[name] = value if key == "area" else int(value)
    for number, annotation in enumerate(ground_truth, start=1):
        annotation["id"] = number
    scores = torch.cat([image["scores"] for image in predictions]).tolist()
    for annotation, score in zip(found, scores, strict=True):
        annotation["score"] = score
    dataset = {
        "images": [{"id": number} for number in range(1, 1 + len(targets))],
        "annotations": ground_truth,
        "categories": [{"id": number} for number in range(1, 1 + num_classes)],
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        if faster:
            faster_coco_eval = pytest.importorskip("faster_coco_eval")
            objects = faster_coco_eval.COCO(dataset)
            evaluation = faster_coco_eval.COCOeval_faster(objects, objects.loadRes(found), "bbox")
        else:
            objects = COCO()
            objects.dataset = dataset
            objects.createIndex()
            evaluation = HonouringIgnore(objects, objects.loadRes(found), "bbox")
        evaluation.params.maxDets = limits or [1, 10, 100]
        evaluation.evaluate()
        evaluation.accumulate()
        if limits is None:
            evaluation.summarize()
    return evaluation


@pytest.fixture
def pycocotools() -> Callable[..., Any]:
    """Evaluates as pycocotools does, see ``evaluate``."""
    return evaluate
