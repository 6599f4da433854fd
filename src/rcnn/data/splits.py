"""Where the three splits of a run come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from rcnn.data.coco import COCODataset
from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError, OnError
from rcnn.data.shapes import ShapesDataset
from rcnn.data.voc import VOCDataset, pascal_voc

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@runtime_checkable
class DataSource(Protocol):
    """Gives the data set of each split."""

    def prepare(self) -> None:
        """Download what is missing; called in one process, before the others go on."""

    def has(self, split: Split) -> bool:
        """Return whether there is such a split."""
        ...

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split."""
        ...


class ShapesSource:
    """Synthetic pictures, made on the fly: no files, no download.

    Args:
        train: number of training images.
        val: number of validation images.
        test: number of test images.
        size: height and width of the images, in pixels.
        seed: of the pictures; each split draws its own.
    """

    def __init__(
        self, train: int = 300, val: int = 20, test: int = 80, size: int = 160, seed: int = 0
    ) -> None:
        self.counts: dict[Split, int] = {"train": train, "val": val, "test": test}
        self.size = size
        self.seed = seed

    def prepare(self) -> None:
        """Nothing is missing."""

    def has(self, split: Split) -> bool:
        """Return whether the split has any image."""
        return self.counts[split] > 0

    def dataset(self, split: Split) -> ShapesDataset:
        """Return the pictures of a split."""
        seed = len(SPLITS) * self.seed + SPLITS.index(split)
        return ShapesDataset(self.counts[split], seed=seed, size=self.size)


class VOCSource:
    """A folder in VOC layout with its own split files.

    Args:
        root: holds ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.
        train: the split file to train on.
        val: the split file that chooses the best checkpoint; null for none.
        test: the split file to test on.
        class_names: of the classes 1..K; by default those of the data.
        on_error: ``raise`` or ``skip`` bad images and objects.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train",
        val: str | None = "val",
        test: str = "test",
        class_names: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.root = root
        self.splits: dict[Split, str | None] = {"train": train, "val": val, "test": test}
        self.class_names = class_names
        self.on_error = on_error

    def prepare(self) -> None:
        """Nothing can be downloaded."""

    def has(self, split: Split) -> bool:
        """Return whether there is such a split."""
        return self.splits[split] is not None

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split."""
        name = _named(self.splits[split], split)
        return VOCDataset(self.root, name, class_names=self.class_names, on_error=self.on_error)


class PascalSource:
    """PASCAL VOC by its names: ``VOC2007``, ``VOC2012``, or ``VOC0712`` for the union of both.

    Args:
        root: the folder that holds ``VOCdevkit``.
        name: of the challenge; the test set of ``VOC0712`` is that of 2007.
        train: its split to train on.
        val: the split that chooses the best checkpoint; null for none.
        test: the split to test on.
        download: fetch what is missing.
        on_error: ``raise`` or ``skip`` bad images and objects.
    """

    def __init__(
        self,
        root: str | Path,
        name: str = "VOC2007",
        train: str = "train",
        val: str | None = "val",
        test: str = "test",
        download: bool = False,
        on_error: OnError = "raise",
    ) -> None:
        self.root = root
        self.name = name
        self.splits: dict[Split, str | None] = {"train": train, "val": val, "test": test}
        self.download = download
        self.on_error = on_error

    def prepare(self) -> None:
        """Download what is missing, if that is wanted."""
        if self.download:
            for part in self.splits.values():
                if part is not None:
                    pascal_voc(self.name, self.root, part, download=True, on_error=self.on_error)

    def has(self, split: Split) -> bool:
        """Return whether there is such a split."""
        return self.splits[split] is not None

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split."""
        part = _named(self.splits[split], split)
        return pascal_voc(self.name, self.root, part, on_error=self.on_error)


class COCOSource:
    """COCO annotation files, one for each split.

    Args:
        root: the folder that the other paths start from.
        train: annotation file to train on.
        train_images: folder of its images.
        val: annotation file that chooses the best checkpoint; null for none.
        val_images: folder of its images.
        test: annotation file to test on; null: the validation split (COCO's own test split has
            no public annotations).
        test_images: folder of its images.
        on_error: ``raise`` or ``skip`` bad images and objects.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "annotations/instances_train2017.json",
        train_images: str = "train2017",
        val: str | None = "annotations/instances_val2017.json",
        val_images: str | None = "val2017",
        test: str | None = None,
        test_images: str | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.root = Path(root)
        self.files: dict[Split, tuple[str | None, str | None]] = {
            "train": (train, train_images),
            "val": (val, val_images),
            "test": (test, test_images) if test is not None else (val, val_images),
        }
        self.on_error = on_error

    def prepare(self) -> None:
        """Nothing can be downloaded."""

    def has(self, split: Split) -> bool:
        """Return whether there is such a split."""
        return self.files[split][0] is not None

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split."""
        annotations, images = self.files[split]
        return COCODataset(
            self.root / _named(annotations, split),
            self.root / _named(images, split),
            on_error=self.on_error,
        )


class TrainingSource:
    """The training split of another source, where no other split shall be opened.

    Args:
        source: whose.
    """

    def __init__(self, source: DataSource) -> None:
        self.source = source

    def prepare(self) -> None:
        """Download what is missing."""
        self.source.prepare()

    def has(self, split: Split) -> bool:
        """Return whether it is the training split."""
        return split == "train"

    def dataset(self, split: Split) -> DetectionDataset:
        """Open the split."""
        return self.source.dataset(split)


def _named(name: str | None, split: Split) -> str:
    if name is None:
        raise DataError(f"There is no {split} split: data.{split} is null.", "missing split")
    return name
