"""Sources of the three splits of a run."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np

from rcnn.data.builder import Others
from rcnn.data.coco import COCODataset, read_class_names
from rcnn.data.dataset import DetectionDataset, IndexedDataset, JoinedDataset, SubsetDataset
from rcnn.data.errors import DataError, DataWarning, OnError
from rcnn.data.images import MAX_PIXELS
from rcnn.data.random_split import random_split
from rcnn.data.shapes import SHAPES, ShapesDataset
from rcnn.data.voc import VOCDataset, pascal_voc

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@runtime_checkable
class DataSource(Protocol):
    """Gives the data set of each split."""

    def prepare(self) -> None:
        """Download what is missing; called in one process, before the others go on."""
        return  # by default nothing is missing

    def has(self, split: Split) -> bool:
        """Return whether there is such a split."""
        return getattr(self, split, None) is not None

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split.

        Raises:
            DataError: if there is no such split, or its data is unsound.
        """
        ...

    @property
    def random_splits(self) -> dict[str, list[str]]:
        """The image ids of each split, where splits are drawn at random; empty otherwise."""
        return {}


@dataclass(frozen=True)
class ShapesSource(DataSource):
    """Synthetic pictures, made on the fly: no files, no download.

    Attributes:
        train: number of training images.
        val: number of validation images.
        test: number of test images.
        size: height and width of the images, in pixels.
        seed: seed of the pictures; each split draws its own.
        class_names: the shapes that are drawn, some of circle, square and triangle; null for all.
    """

    train: int = 300
    val: int = 20
    test: int = 80
    size: int = 160
    seed: int = 0
    class_names: Sequence[str] | None = None

    def has(self, split: Split) -> bool:
        """Return whether the split has any image."""
        return bool(getattr(self, split) > 0)

    def dataset(self, split: Split) -> ShapesDataset:
        """Return the pictures of a split."""
        seed = len(SPLITS) * self.seed + SPLITS.index(split)
        names = self.class_names or SHAPES
        return ShapesDataset(getattr(self, split), seed, self.size, class_names=names)


@dataclass(frozen=True)
class FileSource(DataSource):
    """Splits that are read from files; the base of the sources of all layouts.

    The training split rules the classes: the other splits are matched with it by the names of
    their classes. Objects of a class that it does not have are ignored regions in them.

    Attributes:
        root: folder of the data set.
        class_names: names of the classes 1..K, which selects and orders them; null for those of
            the data.
        on_error: ``repair``, ``raise`` or ``skip`` what is wrong, see ``rcnn.data.errors``.
        max_pixels: height x width of the largest picture that is read.
        seed: seed of random splits.
    """

    root: str | Path
    class_names: Sequence[str] | None = field(default=None, kw_only=True)
    on_error: OnError = field(default="repair", kw_only=True)
    max_pixels: int = field(default=MAX_PIXELS, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    # Of the training split, once it was opened: all classes, and those of which it has objects.
    _trained: dict[str, tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split; classes of which only this one has objects are named in a warning."""
        if split in self._random_parts:
            return self._random_parts[split]
        others: Others = "drop"
        names = self.class_names
        if names is None and split != "train":
            names, others = self.training_class_names(), "ignore"
        dataset = self.open(split, names, others)
        found = _classes_with_objects(dataset)
        if split == "train":
            self._trained.update(all=dataset.class_names, found=found)
        elif untrained := set(found).difference(self._trained.get("found", found)):
            warnings.warn(
                f"The {split} split has objects of {', '.join(sorted(untrained))}, of which the "
                "training split has none.",
                DataWarning,
                stacklevel=2,
            )
        return dataset

    @cached_property
    def _random_parts(self) -> dict[str, SubsetDataset]:
        """The parts of the training images, where a split is a share of them."""
        given = {name: getattr(self, name, None) for name in ("val", "test")}
        shares = {name: share for name, share in given.items() if isinstance(share, float)}
        if not shares:
            return {}
        whole = self.open("train", self.class_names, "drop")
        parts = random_split(whole, shares, self.seed)
        return {name: SubsetDataset(whole, indices) for name, indices in parts.items()}

    @property
    def random_splits(self) -> dict[str, list[str]]:
        """The image ids of each split, where splits are drawn at random; empty otherwise."""
        return {name: list(part.image_ids) for name, part in self._random_parts.items()}

    def named(self, split: Split) -> str:
        """Return the name, file or folder of a split.

        Raises:
            DataError: there is no such split.
        """
        name = getattr(self, split, None)
        if not isinstance(name, str):
            raise DataError(f"There is no {split} split: data.{split} is null.", "missing split")
        return name

    @abstractmethod
    def open(
        self, split: Split, class_names: Sequence[str] | None, others: Others
    ) -> DetectionDataset:
        """Open a split.

        Args:
            split: which one.
            class_names: names of the labels 1..K; None for those of the data.
            others: what becomes of objects of other classes.
        """

    def training_class_names(self) -> tuple[str, ...] | None:
        """Return the classes of the training split, read from it; None if all splits have them."""
        return None


@dataclass(frozen=True)
class VOCSource(FileSource):
    """A folder in VOC layout with its own splits.

    Attributes:
        train: split to train on, a list or a folder; ``all`` takes every annotation.
        val: split that chooses the best checkpoint, or a share of the training images, 0..1; null
            for none.
        test: split to test on, or a share of the training images, 0..1; null for none.
    """

    train: str = "train"
    val: str | float | None = "val"
    test: str | float | None = "test"

    def open(
        self, split: Split, class_names: Sequence[str] | None, others: Others
    ) -> DetectionDataset:
        """Open a split."""
        return VOCDataset(
            self.root,
            self.named(split),
            class_names,
            self.on_error,
            others=others,
            max_pixels=self.max_pixels,
        )


@dataclass(frozen=True)
class PascalSource(VOCSource):
    """PASCAL VOC by its names: ``VOC2007``, ``VOC2012``, or ``VOC0712`` for the union of both.

    Attributes:
        root: folder that holds ``VOCdevkit``.
        name: name of the challenge; the test set of ``VOC0712`` is that of 2007.
        download: whether to fetch what is missing.
    """

    name: str = field(default="VOC2007", kw_only=True)
    download: bool = field(default=False, kw_only=True)

    def prepare(self) -> None:
        """Download what is missing, if that is wanted."""
        if self.download:
            named = [part for part in (self.train, self.val, self.test) if isinstance(part, str)]
            for part in named:
                pascal_voc(self.name, self.root, part, download=True, on_error=self.on_error)

    def open(
        self, split: Split, class_names: Sequence[str] | None, others: Others
    ) -> DetectionDataset:
        """Open a split."""
        return pascal_voc(
            self.name,
            self.root,
            self.named(split),
            on_error=self.on_error,
            class_names=class_names,
            others=others,
            max_pixels=self.max_pixels,
        )


@dataclass(frozen=True)
class COCOSource(FileSource):
    """COCO annotation files, one for each split.

    Attributes:
        root: folder that the other paths are relative to.
        train: annotation file to train on.
        train_images: folder of its images.
        val: annotation file that chooses the best checkpoint, or a share of the training images,
            0..1; null for none.
        val_images: folder of its images.
        test: annotation file to test on, or a share of the training images, 0..1; null for the
            validation split (COCO's own test split has no public annotations).
        test_images: folder of its images.
    """

    train: str = "annotations/instances_train2017.json"
    train_images: str = "train2017"
    val: str | float | None = "annotations/instances_val2017.json"
    val_images: str | None = "val2017"
    test: str | float | None = None
    test_images: str | None = None

    def has(self, split: Split) -> bool:
        """Return whether there is such a split."""
        return super().has(self._own(split))

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split."""
        return super().dataset(self._own(split))

    def open(
        self, split: Split, class_names: Sequence[str] | None, others: Others
    ) -> DetectionDataset:
        """Open a split.

        Raises:
            DataError: as ``COCODataset``; a split to learn from or to choose by has no annotations.
        """
        annotations = Path(self.root, self.named(split))
        dataset = COCODataset(
            annotations,
            Path(self.root, getattr(self, f"{split}_images") or self.train_images),
            self.on_error,
            class_names=class_names,
            others=others,
            max_pixels=self.max_pixels,
        )
        if split != "test" and not dataset.is_annotated:
            raise DataError(
                f"{annotations} has no annotations: it is for prediction alone. "
                f"Set data.{split} to a file with the list annotations.",
                "file without annotations",
            )
        return dataset

    def training_class_names(self) -> tuple[str, ...] | None:
        """Return the categories of the training file; None if it is not there."""
        file = Path(self.root, self.train)
        names = self._trained.get("all")
        return read_class_names(file) if names is None and file.is_file() else names

    def _own(self, split: Split) -> Split:
        """Return the split that is opened for another: without a test split, that of validation."""
        return "val" if split == "test" and self.test is None else split


@dataclass(frozen=True)
class TrainingSource(DataSource):
    """The training split of another source, where no other split is to be opened."""

    source: DataSource

    def prepare(self) -> None:
        """Download what is missing."""
        self.source.prepare()

    def has(self, split: Split) -> bool:
        """Return whether it is the training split."""
        return split == "train"

    def dataset(self, split: Split) -> DetectionDataset:
        """Open the split."""
        return self.source.dataset(split)


def _classes_with_objects(dataset: DetectionDataset) -> tuple[str, ...]:
    parts = dataset.parts if isinstance(dataset, JoinedDataset) else (dataset,)
    labels = [part.index.labels for part in parts if isinstance(part, IndexedDataset)]
    found = np.unique(np.concatenate(labels)) if labels else ()
    return tuple(dataset.class_names[label - 1] for label in found if label > 0)
