"""Time and memory of scoring a whole split: this package's VOC and COCO metrics, and others' COCO.

Boxes, labels and scores are drawn from a seed, as many as a test on VOC2007 has: 4,952 images with
about 12,000 objects and 100 detections each. Every scorer gets two images at a time, as in the test
of a detector, in a process of its own with one thread. "update" is the time of all minibatches,
"compute" the time at the end of the epoch, both in seconds of the processor. "memory MB" is the
peak of the process without the drawn boxes. Scorers are timed only if they give the same numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.agreement import DisagreementError
from benchmarks.machine import in_a_process, reset_peak, resident
from benchmarks.pair import Row
from rcnn.metrics import COCOAveragePrecision, VOCAveragePrecision

Images = list[dict[str, Tensor]]

FEW, BATCH_SIZE = 40, 2
"""Number of images of the first comparison, and of a minibatch."""

WIDTH, HEIGHT, OBJECTS = 500, 375, 2.43
"""Usual size of an image of VOC2007 in pixels, and mean number of its objects."""

TOLERANCE = 1e-6
COCO_KEYS = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)


class Scorer(Protocol):
    """A metric that takes minibatches, then gives numbers by name."""

    def update(self, predictions: Images, targets: Images) -> None:
        """Add images."""

    def compute(self) -> Mapping[str, Any]:
        """Return the numbers."""


@dataclass(frozen=True)
class Work:
    """Number of images, of detections in each, and of classes."""

    images: int
    detections: int
    classes: int


@dataclass(frozen=True)
class Cost:
    """The numbers of a scorer, its seconds of the processor, and its peak memory in MB."""

    figures: dict[str, float]
    update: float
    compute: float
    memory: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--images", type=int, default=4952)
    parser.add_argument("--detections", type=int, default=100, help="in each image (%(default)s)")
    parser.add_argument("--classes", type=int, default=20)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Score the same boxes by all scorers that are installed.

    Raises:
        DisagreementError: two scorers of COCO's numbers differ.
    """
    work = Work(arguments.images, arguments.detections, arguments.classes)
    few = Work(min(FEW, work.images), work.detections, work.classes)
    installed = [name for name in SCORERS if importlib.util.find_spec(SCORERS[name][0])]
    coco = [name for name in installed if name.startswith("COCO")]
    check({name: score(name, few).figures for name in coco})
    costs = {name: run(name, work) for name in installed}
    check({name: costs[name].figures for name in coco})
    ours = costs["COCO, rcnn"]
    rows: list[Row] = []
    for name, (package, _) in SCORERS.items():
        row: Row = {"metric": name}
        if name not in costs:
            row["remark"] = f"{package} is not installed"
        else:
            cost = costs[name]
            both = cost.update + cost.compute
            row |= {"update s": cost.update, "compute s": cost.compute, "update + compute s": both}
            row["memory MB"] = cost.memory
            if name in coco:
                row["times ours"] = both / (ours.update + ours.compute)
        rows.append(row | asdict(work))
    return rows


def check(figures: Mapping[str, Mapping[str, float]]) -> None:
    """Compare the numbers of all scorers with those of the first one.

    Raises:
        DisagreementError: a number differs.
    """
    (first, expected), *others = figures.items()
    for name, found in others:
        for key, value in expected.items():
            if not np.isclose(found[key], value, rtol=0, atol=TOLERANCE, equal_nan=True):
                raise DisagreementError(
                    f"{key} is {value:.8f} by {first} and {found[key]:.8f} by {name}: "
                    "times of different results cannot be compared."
                )


def run(name: str, work: Work) -> Cost:
    """Score in a fresh process with one thread."""
    return in_a_process(score, name, work, threads=1)


def score(name: str, work: Work) -> Cost:
    """Score drawn boxes by a scorer in this process."""
    predictions, targets = draw(work)
    _, build = SCORERS[name]
    warm_up = build(work.classes)  # libraries load parts of themselves at the first call
    warm_up.update(predictions[:BATCH_SIZE], targets[:BATCH_SIZE])
    warm_up.compute()
    scorer = build(work.classes)
    before = reset_peak()
    start = time.process_time()
    for first in range(0, work.images, BATCH_SIZE):
        batch = slice(first, first + BATCH_SIZE)
        scorer.update(predictions[batch], targets[batch])
    updated = time.process_time()
    values = scorer.compute()
    computed = time.process_time()
    memory = (resident("peak") - before) / 1e6
    keys = COCO_KEYS if name.startswith("COCO") else ("voc_map", "voc07_map")
    figures = {key: float(values[key]) for key in keys}
    # COCO's own tools write -1 where a number is undefined.
    figures = {key: float("nan") if value < 0 else value for key, value in figures.items()}
    return Cost(figures, updated - start, computed - updated, memory)


def draw(work: Work, seed: int = 0) -> tuple[Images, Images]:
    """Draw detections and objects: two of five detections lie near an object, the others anywhere.

    Coordinates are multiples of 1/8 pixel, which no scorer has to round.

    Returns:
        The detections and the objects of each image.
    """
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([WIDTH, HEIGHT])

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def classes(count: int) -> Tensor:
        return torch.randint(1, work.classes + 1, (count,), generator=generator)

    def boxes(centres: Tensor, sides: Tensor) -> Tensor:
        corners = torch.cat([centres - sides / 2, centres + sides / 2], dim=1).clamp(min=0)
        return (8 * corners.minimum(size.repeat(2))).round() / 8

    rate = torch.full((work.images,), OBJECTS - 1)
    counts = 1 + torch.poisson(rate, generator=generator).long()
    total = int(counts.sum())
    objects = boxes(uniform(total, 2) * size, (4.6 + 0.7 * normal(total, 2)).exp())
    labels, crowd = classes(total), uniform(total) < 0.03

    total = work.images * work.detections
    first = (counts.cumsum(0) - counts).repeat_interleave(work.detections)
    chosen = first + (uniform(total) * counts.repeat_interleave(work.detections)).long()
    near, error = uniform(total) < 0.4, 0.2 * uniform(total, 1)
    sides = objects[chosen, 2:] - objects[chosen, :2]
    centres = (objects[chosen, 2:] + objects[chosen, :2]) / 2
    around = boxes(
        centres + error * sides * normal(total, 2), sides * (error * normal(total, 2)).exp()
    )
    anywhere = boxes(uniform(total, 2) * size, (4.3 + 0.7 * normal(total, 2)).exp())
    right = near & (uniform(total) < 0.7)
    scores = torch.where(right, (1 - 4 * error[:, 0]) * uniform(total), 0.6 * uniform(total) ** 3)
    detections = {
        "boxes": torch.where(near[:, None], around, anywhere),
        "scores": scores.clamp(min=0),
        "labels": torch.where(right, labels[chosen], classes(total)),
    }
    # torchmetrics has another name for crowd.
    truth = {"boxes": objects, "labels": labels, "crowd": crowd, "iscrowd": crowd.long()}
    per_image = [work.detections] * work.images
    return _split(detections, per_image), _split(truth, counts.tolist())


def _split(columns: dict[str, Tensor], counts: list[int]) -> Images:
    parts = zip(*(column.split(counts) for column in columns.values()), strict=True)
    return [dict(zip(columns, part, strict=True)) for part in parts]


class _COCOTools:
    """COCO's own tools, or others with their interface, which take arrays fastest."""

    def __init__(self, classes: int, dataset: Any, evaluation: Any) -> None:
        self.dataset, self.evaluation = dataset, evaluation
        self.categories = [{"id": index + 1} for index in range(classes)]
        self.images: list[dict[str, int]] = []
        self.objects: list[dict[str, Any]] = []
        self.detections = [np.zeros((0, 7))]

    def update(self, predictions: Images, targets: Images) -> None:
        """Convert images to COCO's form."""
        for found, truth in zip(predictions, targets, strict=True):
            number = len(self.images) + 1
            self.images.append({"id": number})
            numbers = torch.full_like(found["scores"], number)
            columns = [numbers, *_corner_and_sides(found["boxes"]), found["scores"]]
            table = torch.stack([*columns, found["labels"].float()], dim=1)
            self.detections.append(table.double().numpy())
            boxes = torch.stack(_corner_and_sides(truth["boxes"]), dim=1).tolist()
            labels, crowd = truth["labels"].tolist(), truth["iscrowd"].tolist()
            for box, label, is_crowd in zip(boxes, labels, crowd, strict=True):
                about = {"id": len(self.objects) + 1, "image_id": number, "category_id": label}
                area = box[2] * box[3]
                self.objects.append(about | {"bbox": box, "area": area, "iscrowd": is_crowd})

    def compute(self) -> dict[str, float]:
        """Evaluate, accumulate and summarise."""
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self.dataset()
            truth.dataset = {
                "info": {},
                "images": self.images,
                "annotations": self.objects,
                "categories": self.categories,
            }
            truth.createIndex()
            results = truth.loadRes(np.concatenate(self.detections))
            evaluation = self.evaluation(truth, results, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(zip(COCO_KEYS, evaluation.stats, strict=False))


def _corner_and_sides(boxes: Tensor) -> list[Tensor]:
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return [x1, y1, x2 - x1, y2 - y1]


def _pycocotools(classes: int) -> Scorer:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _COCOTools(classes, COCO, COCOeval)


def _faster_coco_eval(classes: int) -> Scorer:
    from faster_coco_eval import COCO, COCOeval_faster

    return _COCOTools(classes, COCO, COCOeval_faster)


def _torchmetrics(_: int) -> Scorer:
    from torchmetrics.detection import MeanAveragePrecision

    # Its own levels are of float32, in which a recall of 3 of 10 objects misses the level 0.3.
    metric = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        backend="pycocotools",
    )
    metric.warn_on_many_detections = False
    return metric


SCORERS: dict[str, tuple[str, Callable[[int], Scorer]]] = {
    "COCO, rcnn": ("rcnn", COCOAveragePrecision),
    "VOC, rcnn": ("rcnn", VOCAveragePrecision),
    "COCO, faster-coco-eval": ("faster_coco_eval", _faster_coco_eval),
    "COCO, pycocotools": ("pycocotools", _pycocotools),
    "COCO, torchmetrics": ("pycocotools", _torchmetrics),
}
"""The package that a scorer needs, and its constructor from the number of classes, by name."""
