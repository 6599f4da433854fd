"""The report on a whole data set, every image decoded."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError, Kind
from rcnn.ops import boxes

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class DataReport:
    """What ``check`` found.

    Attributes:
        images: number of images.
        images_without_objects: number of those without objects.
        objects: number of objects of each class, those of classes without any object too.
        difficult: number of objects marked so.
        crowd: number of regions marked so.
        box_sizes: square roots of box areas in pixels, at ``QUANTILES``.
        box_shapes: heights over widths, at ``QUANTILES``.
        objects_per_image: numbers of objects, at ``QUANTILES``.
        problems: what the reader repaired, left out or noted, by kind.
        unreadable: faults of images that turned out broken when they were decoded, in words.
    """

    images: int
    images_without_objects: int
    objects: dict[str, int]
    difficult: int
    crowd: int
    box_sizes: tuple[float, ...]
    box_shapes: tuple[float, ...]
    objects_per_image: tuple[float, ...]
    problems: tuple[Kind, ...]
    unreadable: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing was wrong, not even what the reader could repair."""
        return not self.unreadable and all(kind.outcome == "noted" for kind in self.problems)

    def __str__(self) -> str:
        total = sum(self.objects.values())
        widest = max(map(len, self.objects), default=0)
        return "\n".join(
            [
                f"{self.images} images, {self.images_without_objects} without objects",
                f"{total} objects, {self.difficult} difficult, {self.crowd} crowd",
                *(f"  {name:<{widest}} {count:>8}" for name, count in self.objects.items()),
                "smallest, 5 %, median, 95 %, largest",
                f"  box size, sqrt(width x height) in pixels: {_row(self.box_sizes)}",
                f"  box shape, height / width: {_row(self.box_shapes)}",
                f"  objects per image: {_row(self.objects_per_image)}",
                *(line for kind in self.problems for line in kind.table()),
                f"{len(self.unreadable)} images unreadable",
                *(f"  {message}" for message in self.unreadable),
            ]
        )


def _row(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values) or "there are no boxes"


def check(dataset: DetectionDataset, threads: int = 4) -> DataReport:
    """Decode every image and count what there is.

    Args:
        dataset: a data set; opened with ``on_error="skip"``, all its faults are reported.
        threads: number of threads that decode.
    """
    every = [dataset.ground_truth(index) for index in range(len(dataset))]
    with ThreadPoolExecutor(threads) as pool:
        faults = pool.map(lambda index: _fault(dataset, index), range(len(dataset)))
        unreadable = tuple(fault for fault in faults if fault is not None)
    corners = torch.cat([ground_truth.boxes for ground_truth in every])
    labels = Counter(torch.cat([ground_truth.labels for ground_truth in every]).tolist())
    counts = torch.tensor([float(len(ground_truth)) for ground_truth in every])
    sides = corners[:, 2:] - corners[:, :2]
    return DataReport(
        images=len(dataset),
        images_without_objects=int((counts == 0).sum()),
        objects={name: labels[k] for k, name in enumerate(dataset.class_names, start=1)},
        difficult=sum(int(ground_truth.difficult.sum()) for ground_truth in every),
        crowd=sum(int(ground_truth.crowd.sum()) for ground_truth in every),
        box_sizes=_quantiles(boxes.area(corners).sqrt()),
        box_shapes=_quantiles(sides[:, 1] / sides[:, 0]),
        objects_per_image=_quantiles(counts),
        problems=tuple(dataset.problems.kinds.values()),
        unreadable=unreadable,
    )


def _fault(dataset: DetectionDataset, index: int) -> str | None:
    try:
        dataset[index]
    except DataError as error:
        return str(error)
    return None


def _quantiles(values: Float[Tensor, " N"]) -> tuple[float, ...]:
    if len(values) == 0:
        return ()
    # Not torch.quantile, which refuses more than 16 million values.
    ranks = [round(fraction * (len(values) - 1)) for fraction in QUANTILES]
    return tuple(values.sort().values[ranks].tolist())
