"""Sources of the layouts that tools export, and one that finds out the layout of a folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rcnn.data.builder import Others
from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataWarning, OnError
from rcnn.data.find_layout import Layout, Splits, find_layout
from rcnn.data.images import MAX_PIXELS
from rcnn.data.labelme import LabelmeDataset, labelme_class_names, read_labelme_files
from rcnn.data.splits import COCOSource, DataSource, FileSource, Split, VOCSource
from rcnn.data.table import CSVDataset, table_class_names
from rcnn.data.yolo import YOLODataset


@dataclass(frozen=True)
class YOLOSource(FileSource):
    """A folder in YOLO layout.

    Attributes:
        train: split to train on: ``train``, or ``all`` for every picture.
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
        return YOLODataset(
            self.root,
            self.named(split),
            class_names,
            self.on_error,
            others=others,
            max_pixels=self.max_pixels,
        )


@dataclass(frozen=True)
class CSVSource(FileSource):
    """CSV tables, one for each split.

    Attributes:
        images: folder of the pictures, relative to ``root``; null for that of each table.
        train: table to train on, relative to ``root``.
        val: table that chooses the best checkpoint, or a share of the training images, 0..1; null
            for none.
        test: table to test on, or a share of the training images, 0..1; null for none.
    """

    images: str | None = None
    train: str = "train.csv"
    val: str | float | None = "val.csv"
    test: str | float | None = "test.csv"

    def open(
        self, split: Split, class_names: Sequence[str] | None, others: Others
    ) -> DetectionDataset:
        """Open a split."""
        return CSVDataset(
            Path(self.root, self.named(split)),
            None if self.images is None else Path(self.root, self.images),
            class_names,
            self.on_error,
            others=others,
            max_pixels=self.max_pixels,
        )

    def training_class_names(self) -> tuple[str, ...] | None:
        """Return the classes in the table to train on; None if it is not there."""
        file = Path(self.root, self.train)
        return table_class_names(file) if file.is_file() else None


@dataclass(frozen=True)
class LabelmeSource(FileSource):
    """Folders of Labelme files, one for each split.

    Attributes:
        train: folder to train on, relative to ``root``.
        val: folder that chooses the best checkpoint, or a share of the training images, 0..1; null
            for none.
        test: folder to test on, or a share of the training images, 0..1; null for none.
    """

    train: str = "."
    val: str | float | None = 0.15
    test: str | float | None = 0.15

    def open(
        self, split: Split, class_names: Sequence[str] | None, others: Others
    ) -> DetectionDataset:
        """Open a split."""
        return LabelmeDataset(
            Path(self.root, self.named(split)),
            class_names,
            self.on_error,
            others=others,
            max_pixels=self.max_pixels,
        )

    def training_class_names(self) -> tuple[str, ...] | None:
        """Return the labels of the shapes to train on."""
        return labelme_class_names(read_labelme_files(Path(self.root, self.train)))


SOURCES: dict[str, type[FileSource]] = {
    "coco": COCOSource,
    "voc": VOCSource,
    "yolo": YOLOSource,
    "csv": CSVSource,
    "labelme": LabelmeSource,
}
"""The sources of the layouts, by the words that choose them: ``data=yolo``."""


@dataclass(frozen=True)
class AutoSource(DataSource):
    """A folder of which the layout is found out: COCO, VOC, YOLO, CSV or Labelme.

    Attributes:
        root: the folder.
        val: share of the training images that chooses the best checkpoint, 0..1, where the folder
            has no validation split; null for none.
        test: share of the training images to test on, 0..1, where the folder has neither a test nor
            a validation split; null for none.
        class_names: names of the classes 1..K, which selects and orders them; null for those of
            the data.
        on_error: ``repair``, ``raise`` or ``skip`` what is wrong, see ``rcnn.data.errors``.
        max_pixels: height x width of the largest picture that is read.
        seed: seed of random splits.
    """

    root: str | Path
    val: float | None = 0.15
    test: float | None = 0.15
    class_names: Sequence[str] | None = None
    on_error: OnError = "repair"
    max_pixels: int = MAX_PIXELS
    seed: int = 0

    @cached_property
    def layout(self) -> Layout:
        """The layout that the folder has, with every split.

        Raises:
            DataError: it has none, or several.
        """
        found = find_layout(Path(self.root))
        splits: Splits = dict(found.splits)
        if "test" not in splits and "val" in splits:
            # A validation split of somebody's own is also tested on, as COCO's is.
            of_val = {key: value for key, value in splits.items() if key.startswith("val")}
            splits |= {f"test{key.removeprefix('val')}": value for key, value in of_val.items()}
        shares: Splits = {"val": self.val, "test": self.test}
        return Layout(found.name, shares | splits)

    @cached_property
    def source(self) -> FileSource:
        """The source of the layout."""
        make = SOURCES[self.layout.name]
        return make(
            self.root,
            class_names=self.class_names,
            on_error=self.on_error,
            max_pixels=self.max_pixels,
            seed=self.seed,
            **self.layout.splits,
        )

    def prepare(self) -> None:
        """Say which layout was found, and the words that name it."""
        said = f"{Path(self.root).absolute()} is a data set in {self.layout}"
        warnings.warn(said, DataWarning, stacklevel=2)

    def has(self, split: Split) -> bool:
        """Return whether there is such a split."""
        return self.source.has(split)

    def dataset(self, split: Split) -> DetectionDataset:
        """Open a split."""
        return self.source.dataset(split)

    @property
    def random_splits(self) -> dict[str, list[str]]:
        """The image ids of each split, where splits are drawn at random; empty otherwise."""
        return self.source.random_splits
