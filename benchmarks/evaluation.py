"""Scoring a whole split: VOC's and COCO's numbers by this package, COCO's by others.

Boxes, labels and scores are drawn from a seed, as many as a test on VOC2007 has: 4,952 images with
some 12,000 objects and up to 100 detections each. Every scorer sees two images at a time, as in a
test of a detector, in a process of its own with one thread. "update" is the time of all minibatches
together, "compute" is what the end of the epoch waits for; both are processor time. "memory MB" is
what the process needs beside the boxes themselves, at its highest. Before anything is timed, all
scorers have to give the same numbers for a few images, and then for all.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import io
import multiprocessing
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.agreement import DisagreementError
from rcnn.metrics import COCOAveragePrecision, VOCAveragePrecision

Images = list[dict[str, Tensor]]
FEW, AT_ONCE = 40, 2
"""Images of the first comparison, and of a minibatch."""

WIDTH, HEIGHT, OBJECTS = 500, 375, 2.43
"""Of VOC2007: usual pixels of an image, and objects in one on average."""

TOLERANCE = 1e-6
TWELVE = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)


class Scorer(Protocol):
    """What is compared: a metric that sees minibatches, then gives numbers by name."""

    def update(self, predictions: Images, targets: Images) -> None:
        """Add images."""

    def compute(self) -> Mapping[str, Any]:
        """Return the numbers."""


@dataclass(frozen=True)
class Work:
    """What is scored: numbers of images, of detections in each, and of classes."""

    images: int
    detections: int
    classes: int


@dataclass(frozen=True)
class Cost:
    """What a scorer found, and what that took: processor seconds, megabytes."""

    figures: dict[str, float]
    update: float
    compute: float
    memory: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--images", type=int, default=4952)
    parser.add_argument("--detections", type=int, default=100, help="in each image (%(default)s)")
    parser.add_argument("--classes", type=int, default=20)


def measure(arguments: argparse.Namespace) -> list[dict[str, str | int | float]]:
    """Score the same boxes by all that are installed.

    Raises:
        DisagreementError: the numbers differ; says which. Nothing is reported then.
    """
    work = Work(arguments.images, arguments.detections, arguments.classes)
    installed = {name: needs for name, needs in PEERS.items() if importlib.util.find_spec(needs)}
    few = Work(min(FEW, work.images), work.detections, work.classes)
    agree({name: score(name, few).figures for name in ("COCO, rcnn", *installed)})
    costs = {name: run(name, work) for name in ("VOC, rcnn", "COCO, rcnn", *installed)}
    agree({name: cost.figures for name, cost in costs.items() if name.startswith("COCO")})
    ours = costs["COCO, rcnn"]
    rows: list[dict[str, str | int | float]] = []
    for name, cost in costs.items():
        row = {
            "metric": name,
            "update s": cost.update,
            "compute s": cost.compute,
            "update + compute s": cost.update + cost.compute,
            "memory MB": cost.memory,
        }
        if name.startswith("COCO"):
            row["times ours"] = (cost.update + cost.compute) / (ours.update + ours.compute)
        rows.append(row)
    rows += [
        {"metric": name, "remark": f"{needs} is not installed"}
        for name, needs in PEERS.items()
        if name not in installed
    ]
    return [{**row, **vars(work)} for row in rows]


def agree(figures: Mapping[str, Mapping[str, float]]) -> None:
    """Compare the twelve numbers of all scorers with the first one's.

    Raises:
        DisagreementError: one of them is another one.
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
    """Score in a fresh process, so that memory and caches are those of one scorer."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (1,)) as pool:
        return pool.submit(score, name, work).result()


def score(name: str, work: Work) -> Cost:
    """Score drawn boxes by the scorer of this name, in this process."""
    predictions, targets = draw(work)
    warm_up = SCORERS[name](work.classes)  # imports, and libraries that load at the first call
    warm_up.update(predictions[:AT_ONCE], targets[:AT_ONCE])
    warm_up.compute()
    scorer = SCORERS[name](work.classes)
    before = _from_now_on()
    starts = range(0, work.images, AT_ONCE)
    start = time.process_time()
    for i in starts:
        scorer.update(predictions[i : i + AT_ONCE], targets[i : i + AT_ONCE])
    updated = time.process_time()
    values = scorer.compute()
    computed = time.process_time()
    keys = TWELVE if name.startswith("COCO") else ("voc_map", "voc07_map")
    figures = {key: float(values[key]) for key in keys}
    return Cost(
        {key: float("nan") if value < 0 else value for key, value in figures.items()},
        updated - start,
        computed - updated,
        _memory("VmHWM") - before,
    )


def draw(work: Work, seed: int = 0) -> tuple[Images, Images]:
    """Draw detections and objects: some near an object, often several, the others anywhere.

    Coordinates are multiples of 1/8 pixel, so that no scorer has to round, and scores are distinct
    for most boxes.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def inside(centres: Tensor, sides: Tensor) -> Tensor:
        boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1).clamp(min=0)
        return (8 * boxes.minimum(torch.tensor([WIDTH, HEIGHT] * 2))).round() / 8

    def classes(count: int) -> Tensor:
        return torch.randint(1, work.classes + 1, (count,), generator=generator)

    whole = torch.tensor([WIDTH, HEIGHT])
    rate = torch.full((work.images,), OBJECTS - 1)
    counts = 1 + torch.poisson(rate, generator=generator).long()
    objects = inside(
        uniform(int(counts.sum()), 2) * whole, (4.6 + 0.7 * normal(int(counts.sum()), 2)).exp()
    )
    labels, crowd = classes(len(objects)), uniform(len(objects)) < 0.03

    total = work.images * work.detections
    first = (counts.cumsum(0) - counts).repeat_interleave(work.detections)
    nearest = first + (uniform(total) * counts.repeat_interleave(work.detections)).long()
    near, error = uniform(total) < 0.4, 0.2 * uniform(total, 1)
    sides = objects[nearest, 2:] - objects[nearest, :2]
    centres = (objects[nearest, 2:] + objects[nearest, :2]) / 2
    around = inside(
        centres + error * sides * normal(total, 2), sides * (error * normal(total, 2)).exp()
    )
    anywhere = inside(uniform(total, 2) * whole, (4.3 + 0.7 * normal(total, 2)).exp())
    right = near & (uniform(total) < 0.7)
    scores = torch.where(right, (1 - 4 * error[:, 0]) * uniform(total), 0.6 * uniform(total) ** 3)
    found = {
        "boxes": torch.where(near[:, None], around, anywhere),
        "scores": scores.clamp(min=0),
        "labels": torch.where(right, labels[nearest], classes(total)),
    }
    ground_truth = {"boxes": objects, "labels": labels, "crowd": crowd, "iscrowd": crowd.long()}
    return _per_image(found, [work.detections] * work.images), _per_image(
        ground_truth, counts.tolist()
    )


def _per_image(columns: dict[str, Tensor], counts: list[int]) -> Images:
    parts = zip(*(column.split(counts) for column in columns.values()), strict=True)
    return [dict(zip(columns, part, strict=True)) for part in parts]


class _COCOTools:
    """COCO's own tools, or others with their interface, fed with arrays: their quickest way."""

    def __init__(self, classes: int, dataset: Any, evaluation: Any) -> None:
        self.dataset, self.evaluation = dataset, evaluation
        self.categories = [{"id": number + 1} for number in range(classes)]
        self.images: list[dict[str, int]] = []
        self.objects: list[dict[str, Any]] = []
        self.found = [np.zeros((0, 7))]

    def update(self, predictions: Images, targets: Images) -> None:
        """Put boxes into COCO's form."""
        for found, ground_truth in zip(predictions, targets, strict=True):
            number = len(self.images) + 1
            self.images.append({"id": number})
            columns = (_corner_and_sides(found["boxes"]), found["scores"], found["labels"])
            first = torch.full((len(columns[0]), 1), float(number))
            table = [first, *(column.reshape(len(first), -1) for column in columns)]
            self.found.append(torch.cat(table, dim=1).double().numpy())
            boxes = _corner_and_sides(ground_truth["boxes"]).tolist()
            labels, crowds = ground_truth["labels"].tolist(), ground_truth["iscrowd"].tolist()
            for box, label, crowd in zip(boxes, labels, crowds, strict=True):
                self.objects.append(
                    {
                        "id": len(self.objects) + 1,
                        "image_id": number,
                        "category_id": label,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": crowd,
                    }
                )

    def compute(self) -> dict[str, float]:
        """Evaluate, accumulate and summarise."""
        with contextlib.redirect_stdout(io.StringIO()):
            ground_truth = self.dataset()
            ground_truth.dataset = {
                "info": {},
                "images": self.images,
                "annotations": self.objects,
                "categories": self.categories,
            }
            ground_truth.createIndex()
            evaluation = self.evaluation(
                ground_truth, ground_truth.loadRes(np.concatenate(self.found)), "bbox"
            )
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(zip(TWELVE, evaluation.stats, strict=False))


def _corner_and_sides(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)


def _pycocotools(classes: int) -> Scorer:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _COCOTools(classes, COCO, COCOeval)


def _faster_coco_eval(classes: int) -> Scorer:
    from faster_coco_eval import COCO, COCOeval_faster

    return _COCOTools(classes, COCO, COCOeval_faster)


def _torchmetrics(_: int) -> Scorer:
    from torchmetrics.detection import MeanAveragePrecision

    # Its own levels are float32's, which a recall of 3 of 10 objects does not reach.
    metric = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        backend="pycocotools",
    )
    metric.warn_on_many_detections = False
    return metric


SCORERS: dict[str, Callable[[int], Scorer]] = {
    "VOC, rcnn": VOCAveragePrecision,
    "COCO, rcnn": COCOAveragePrecision,
    "COCO, faster-coco-eval": _faster_coco_eval,
    "COCO, pycocotools": _pycocotools,
    "COCO, torchmetrics": _torchmetrics,
}
PEERS = {
    "COCO, faster-coco-eval": "faster_coco_eval",
    "COCO, pycocotools": "pycocotools",
    "COCO, torchmetrics": "pycocotools",
}
"""The packages that others need."""


def _from_now_on() -> float:
    """Return the memory in use, and let the system count its highest mark from here."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed would be used again, and not be seen
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(key: str) -> float:
    """Return megabytes of this process by Linux's name for them; NaN on other systems."""
    status = Path("/proc/self/status")
    found = re.search(rf"{key}:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) / 1000 if found else float("nan")
