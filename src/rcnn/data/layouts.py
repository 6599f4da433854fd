"""Sources of the layouts that tools export, and one that finds out the layout of a folder."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image

from rcnn.data.builder import Others
from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError, DataWarning, OnError
from rcnn.data.images import MAX_PIXELS
from rcnn.data.labelme import LabelmeDataset, labelme_class_names, read_labelme_files
from rcnn.data.reading import decode, list_files
from rcnn.data.splits import COCOSource, DataSource, FileSource, Split, VOCSource
from rcnn.data.table import CSVDataset, read_table, table_class_names
from rcnn.data.yolo import YOLODataset, YOLOFolder

HEAD = 1 << 20  # bytes of a JSON file in which its kind is looked for


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
        images: folder of the pictures, relative to ``root``.
        train: table to train on, relative to ``root``.
        val: table that chooses the best checkpoint, or a share of the training images, 0..1; null
            for none.
        test: table to test on, or a share of the training images, 0..1; null for none.
    """

    images: str = "."
    train: str = "train.csv"
    val: str | float | None = "val.csv"
    test: str | float | None = "test.csv"

    def open(
        self, split: Split, class_names: Sequence[str] | None, others: Others
    ) -> DetectionDataset:
        """Open a split."""
        return CSVDataset(
            Path(self.root, self.named(split)),
            Path(self.root, self.images),
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
        splits: dict[str, str | float | None] = dict(found.splits)
        splits.setdefault("val", self.val)
        # A validation split of somebody's own is also tested on, as COCO's is.
        splits.setdefault("test", splits["val"] if "val" in found.splits else self.test)
        return Layout(found.name, splits)

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


@dataclass(frozen=True)
class Layout:
    """The layout of a folder.

    Attributes:
        name: name of the layout, a key of ``SOURCES``.
        splits: arguments of its source: files or folders of the splits, or shares.
    """

    name: str
    splits: Mapping[str, str | float | None]

    def __str__(self) -> str:
        words = [f"data={self.name}"]
        words += [
            f"data.{key}={'null' if value is None else value}" for key, value in self.splits.items()
        ]
        return f"the layout {self.name}: the same is said by {' '.join(words)}"


# --- finding out --------------------------------------------------------------------------------


def find_layout(root: Path) -> Layout:
    """Return the layout of a folder, with the splits that it has.

    Raises:
        DataError: there is no such folder, it holds nothing that is a data set, or the annotations
            of several layouts.
    """
    if not root.is_dir():
        raise DataError(
            f"{root.absolute()} is no folder. data.root has to be the folder of a data set.",
            "wrong layout",
        )
    files = list(list_files(root))
    finders = {
        "coco": _find_coco,
        "voc": _find_voc,
        "yolo": _find_yolo,
        "csv": _find_csv,
        "labelme": _find_labelme,
    }
    found = {name: splits for name, find in finders.items() if (splits := find(root, files))}
    if len(found) == 1:
        return Layout(*found.popitem())
    if found:
        words = "; ".join(_words(name, splits) for name, splits in found.items())
        raise DataError(
            f"{root.absolute()} holds annotations in {len(found)} layouts: say which one is meant: "
            f"{words}.",
            "two data sets in one folder",
        )
    kinds = Counter(PurePosixPath(file).suffix.lower() or "no suffix" for file in files)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    raise DataError(
        f"{root.absolute()} is no data set that can be read. Looked for: COCO (*.json with images "
        "and annotations), VOC (*.xml), YOLO (data.yaml or labels/*.txt), CSV (a row for each "
        "box), Labelme (*.json with shapes), in sub-folders, too. Files in it: "
        f"{listed or 'none'}. Set data.root to the folder that holds pictures and annotations.",
        "wrong layout",
    )


Splits = dict[str, str | float | None]
"""Arguments of a source."""


def _words(name: str, splits: Mapping[str, str | float | None]) -> str:
    return " ".join([f"data={name}", *(f"data.{key}={value}" for key, value in splits.items())])


def _find_coco(root: Path, files: Sequence[str]) -> Splits:
    """Return annotation files and image folders of a folder in COCO's layout; empty for none."""
    candidates = {}
    for file in files:
        if file.lower().endswith(".json"):
            head = _head(root / file)
            has = {key for key in ("images", "annotations", "categories") if f'"{key}"' in head}
            if "images" in has and len(has) > 1 and '"file_name"' in head:
                candidates[file] = head
    splits: Splits = {}
    for split, file in _by_split(list(candidates)).items():
        splits[split] = file
        splits[f"{split}_images"] = _images_of(root, file, candidates[file])
    return splits


def _images_of(root: Path, annotations: str, head: str) -> str:
    """Return the folder in which the first picture of a COCO file lies."""
    match = re.search(r'"file_name"\s*:\s*"((?:[^"\\]|\\.)*)"', head)
    name = match.group(1).replace("\\/", "/") if match else ""
    beside = PurePosixPath(annotations).parent
    stem = re.sub(r"^(instances|annotations?)_", "", PurePosixPath(annotations).stem)
    split = _split_of(annotations) or "train"
    guesses = [beside, beside / "images", PurePosixPath(stem), PurePosixPath("images") / stem]
    for word in (split, *SPLIT_WORDS[split]):
        guesses += [
            PurePosixPath(word),
            PurePosixPath(word) / "images",
            PurePosixPath("images") / word,
        ]
    guesses += [PurePosixPath("images"), PurePosixPath("JPEGImages"), PurePosixPath(".")]
    return next((str(guess) for guess in guesses if (root / guess / name).is_file()), ".")


def _find_voc(root: Path, files: Sequence[str]) -> Splits:
    """Return the splits of a folder with annotations in VOC's XML; empty for none."""
    annotations = [file for file in files if file.lower().endswith(".xml")]
    annotations = [file for file in annotations if "<annotation" in _head(root / file, 4096)][
        :1
    ] and (annotations)
    if not annotations:
        return {}
    lists = [PurePosixPath(file) for file in files if file.lower().endswith(".txt")]
    names = {path.stem for path in lists if path.parent.name in ("Main", "ImageSets", "")}
    folders = {part for file in annotations for part in PurePosixPath(file).parts[:-1]}
    splits: Splits = {}
    for split, words in SPLIT_WORDS.items():
        named = [word for word in (split, *words) if word in names]
        if named or not folders.isdisjoint((split, *words)):
            splits[split] = named[0] if named else split
    if "train" not in splits:
        splits["train"] = "trainval" if "trainval" in names else "all"
        if splits["train"] == "all":  # what else is listed is among all of them
            return {"train": "all"}
    return splits


def _find_yolo(root: Path, files: Sequence[str]) -> Splits:
    """Return the splits of a folder in YOLO layout; empty for none."""
    folder = YOLOFolder(root)
    labels = [file for file in files if file.endswith(".txt") and "labels" in file.split("/")]
    pairs = labels or [file for file in files if file.endswith(".txt") and _is_label(root / file)]
    if not pairs and not folder.is_described:
        return {}
    splits: Splits = {name: name for name in ("train", "val", "test") if folder.has(name)}
    return splits if "train" in splits else {"train": "all"}


def _find_csv(root: Path, files: Sequence[str]) -> Splits:
    """Return tables and image folder of a folder with CSV tables; empty for none."""
    tables = {}
    for file in files:
        if file.lower().endswith((".csv", ".tsv")):
            with suppress(DataError):
                tables[file] = read_table(root / file)[0]["file"]
    splits: Splits = {str(split): file for split, file in _by_split(list(tables)).items()}
    if splits:
        name = tables[str(splits["train"])]
        pictures = [PurePosixPath(file) for file in files if _is_picture(file)]
        wanted = PurePosixPath(name)
        same = [path for path in pictures if wanted.name in (path.name, path.stem)]
        if same and not (root / name).is_file():
            depth = len(wanted.parts)
            splits["images"] = str(PurePosixPath(*same[0].parts[:-depth])) or "."
    return splits


def _find_labelme(root: Path, files: Sequence[str]) -> Splits:
    """Return the folders of Labelme files in a folder; empty for none."""
    found = [
        file
        for file in files
        if file.lower().endswith(".json")
        and '"shapes"' in (head := _head(root / file))
        and '"imagePath"' in head
    ]
    if not found:
        return {}
    tops = {PurePosixPath(file).parts[0] for file in found if "/" in file}
    splits: Splits = {}
    for split, words in SPLIT_WORDS.items():
        named = [word for word in (split, *words) if word in tops]
        if named:
            splits[split] = named[0]
    return splits if "train" in splits else {"train": "."}


SPLIT_WORDS: dict[Split, tuple[str, ...]] = {
    "test": ("testing",),
    "val": ("valid", "validation", "dev"),
    "train": ("training", "trainval"),
}
"""Other words for the splits, in the order in which they are looked for."""


def _split_of(file: str) -> Split | None:
    """Return the split that a file or one of its folders is named after."""
    for part in reversed(PurePosixPath(file.lower()).with_suffix("").parts):
        for split, words in SPLIT_WORDS.items():
            for word in (split, *words):
                if re.search(rf"(?<![a-z]){word}(?![a-z])", part):
                    return split
    return None


def _by_split(files: Sequence[str]) -> dict[Split, str]:
    """Return the annotation file of each split; one file alone is the training split.

    Raises:
        DataError: two files are of one split.
    """
    if len(files) == 1:
        return {"train": files[0]}
    found: dict[Split, str] = {}
    for file in files:
        split = _split_of(file)
        if split is not None and split in found:
            raise DataError(
                f"{found[split]} and {file} are both of the split {split}. Name one: "
                f"data.{split}=...",
                "two data sets in one folder",
            )
        if split is not None:
            found[split] = file
    if files and "train" not in found:
        raise DataError(
            f"None of {', '.join(files)} is named after the training split. Name it: "
            "data.train=...",
            "unknown split",
        )
    return found


def _head(file: Path, count: int = HEAD) -> str:
    """Return the beginning of a file, and its end if it is large, as text."""
    with file.open("rb") as stream:
        head = stream.read(count)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - count // 16, min(size, count)))
        return decode(head)[0] + decode(stream.read())[0]


def _is_label(file: Path) -> bool:
    """Return whether a text file has a number of a class and coordinates in its first line."""
    words = _head(file, 4096).partition("\n")[0].split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        return False
    return len(values) >= 5 and values[0].is_integer() and max(values[1:]) <= 1.5


def _is_picture(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() in Image.registered_extensions()
