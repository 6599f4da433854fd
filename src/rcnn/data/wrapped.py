"""Data sets of torchvision's kind, ``image, {"boxes", "labels"}``, as data sets of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch

from rcnn.data.builder import IndexBuilder
from rcnn.data.dataset import DetectionDataset, IndexedDataset, Sample
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.images import Picture, as_images
from rcnn.data.splits import DataSource, Split

Target = Mapping[str, Any]
"""``boxes`` (N, 4) as x1, y1, x2, y2 in pixels and ``labels`` (N,) in 1..K; ``iscrowd``, ``area``
and ``difficult`` may be there, too."""


@runtime_checkable
class Pairs(Protocol):
    """Pictures and targets by index: a data set of torchvision's kind, or a list of pairs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Picture, Target]: ...


class WrappedDataset(IndexedDataset):
    """Any map-style data set whose items are a picture and its target.

    Every item is read once when it is wrapped, because minibatches are grouped by the shapes of
    their images. So the data set must give the same picture each time: random changes are this
    package's, see ``rcnn.AugmentSettings``.

    Args:
        dataset: items are pairs of a picture (a path, PIL image, array or tensor, see
            ``rcnn.data.Picture``) and a target, see ``Target``.
        class_names: names of the labels 1..K.
        on_error: what to do about a bad item, see ``rcnn.data.errors``.

    Raises:
        DataError: an item is unsound, as ``on_error`` says, or there is none.
    """

    def __init__(
        self,
        dataset: Pairs,
        class_names: Sequence[str],
        on_error: OnError = "repair",
    ) -> None:
        self.dataset = dataset
        names = dict(enumerate(class_names, start=1))
        problems = Problems(on_error)
        builder = IndexBuilder(class_names, problems, object_name="box {}".format)
        for index in range(len(dataset)):
            with builder.reading(f"item {index}"):
                picture, target = dataset[index]
                (pixels,) = as_images([picture])
                height, width = pixels.shape[-2:]
                image = builder.add_picture(str(index), (height, width), source=f"item {index}")
                _add_objects(builder, image, target, names)
        super().__init__(builder, "the wrapped data set")

    def __getitem__(self, index: int) -> Sample:
        """Return an item.

        Raises:
            DataError: its picture cannot be read, or has another size than when it was wrapped.
        """
        index = range(len(self))[index]
        number, size = int(self.image_ids[index]), self.index.size(index)
        (pixels,) = as_images([self.dataset[number][0]])
        if tuple(pixels.shape[-2:]) != size:
            raise DataError.about(
                "changing picture",
                where=f"item {number}",
                found=f"(height, width) {tuple(pixels.shape[-2:])}, and {size} before",
                allowed="A wrapped data set has to give the same picture each time: leave random "
                "changes to augment",
            )
        return Sample(pixels, self.ground_truth(index), self.image_ids[index], size)

    def file(self, index: int) -> None:
        """Return None: what a wrapped data set reads is its own business."""


def _add_objects(
    builder: IndexBuilder, image: int, target: Target, names: Mapping[int, str]
) -> None:
    boxes = torch.as_tensor(target["boxes"], dtype=torch.float64).reshape(-1, 4)
    labels = torch.as_tensor(target["labels"]).flatten().tolist()
    empty: list[object] = [None] * len(boxes)
    flags = [_values(target.get(key), empty) for key in ("difficult", "iscrowd", "area")]
    rows = zip(boxes.tolist(), labels, *flags, strict=True)
    for number, (corners, label, difficult, crowd, area) in enumerate(rows, start=1):
        name = names.get(label, f"label {label}")
        builder.add_object(
            image, number, corners, name, difficult=difficult, crowd=crowd, area=area
        )


def _values(given: Any, otherwise: list[object]) -> list[object]:
    if given is None:
        return otherwise
    return torch.as_tensor(given).flatten().tolist()


@dataclass(frozen=True)
class DatasetSource(DataSource):
    """Splits that are data sets already.

    Attributes:
        train: data set to train on.
        val: data set that chooses the best checkpoint; None for none.
        test: data set to test on; None for none.
    """

    train: DetectionDataset
    val: DetectionDataset | None = None
    test: DetectionDataset | None = None

    def dataset(self, split: Split) -> DetectionDataset:
        """Return a split.

        Raises:
            DataError: there is no such split.
        """
        found = getattr(self, split)
        if found is None:
            raise DataError(f"There is no {split} split: none was given.", "missing split")
        return cast(DetectionDataset, found)
