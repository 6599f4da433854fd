"""Sources of the three splits of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from rcnn.data.coco import COCODataset
from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError, OnError
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
class VOCSource(DataSource):
    """A folder in VOC layout with its own split files.

    Attributes:
        root: folder of ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.
        train: split file to train on.
        val: split file that chooses the best checkpoint; null for none.
        test: split file to test on.
        class_names: names of the classes 1..K; null for those of the data.
        on_error: ``raise`` or ``skip`` bad images and objects.
    """

    root: str | Path
    train: str = "train"
    val: str | None = "val"
    test: str = "test"
    class_names: Sequence[str] | None = None
    on_error: OnError = "raise"

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split."""
        return VOCDataset(
            self.root, _given(getattr(self, split), split), self.class_names, self.on_error
        )


@dataclass(frozen=True)
class PascalSource(DataSource):
    """PASCAL VOC by its names: ``VOC2007``, ``VOC2012``, or ``VOC0712`` for the union of both.

    Attributes:
        root: folder that holds ``VOCdevkit``.
        name: name of the challenge; the test set of ``VOC0712`` is that of 2007.
        train: its split to train on.
        val: its split that chooses the best checkpoint; null for none.
        test: its split to test on.
        download: whether to fetch what is missing.
        on_error: ``raise`` or ``skip`` bad images and objects.
    """

    root: str | Path
    name: str = "VOC2007"
    train: str = "train"
    val: str | None = "val"
    test: str = "test"
    download: bool = False
    on_error: OnError = "raise"

    def prepare(self) -> None:
        """Download what is missing, if that is wanted."""
        if self.download:
            for part in filter(None, (self.train, self.val, self.test)):
                pascal_voc(self.name, self.root, part, download=True, on_error=self.on_error)

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split."""
        part = _given(getattr(self, split), split)
        return pascal_voc(self.name, self.root, part, on_error=self.on_error)


@dataclass(frozen=True)
class COCOSource(DataSource):
    """COCO annotation files, one for each split.

    Attributes:
        root: folder that the other paths are relative to.
        train: annotation file to train on.
        train_images: folder of its images.
        val: annotation file that chooses the best checkpoint; null for none.
        val_images: folder of its images.
        test: annotation file to test on; null for the validation split (COCO's own test split has
            no public annotations).
        test_images: folder of its images.
        on_error: ``raise`` or ``skip`` bad images and objects.
    """

    root: str | Path
    train: str = "annotations/instances_train2017.json"
    train_images: str = "train2017"
    val: str | None = "annotations/instances_val2017.json"
    val_images: str | None = "val2017"
    test: str | None = None
    test_images: str | None = None
    on_error: OnError = "raise"

    def has(self, split: Split) -> bool:
        """Return whether there is such a split."""
        return self._paths(split)[0] is not None

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split."""
        annotations, images = (_given(path, split) for path in self._paths(split))
        return COCODataset(Path(self.root, annotations), Path(self.root, images), self.on_error)

    def _paths(self, split: Split) -> tuple[str | None, str | None]:
        if split == "train":
            return self.train, self.train_images
        if split == "test" and self.test is not None:
            return self.test, self.test_images
        return self.val, self.val_images


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


def _given(name: str | None, split: Split) -> str:
    if name is None:
        raise DataError(f"There is no {split} split: data.{split} is null.", "missing split")
    return name
