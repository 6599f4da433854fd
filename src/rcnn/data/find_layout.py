"""Finding out which layout a folder has, and what its splits are called."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from rcnn.data.errors import DataError
from rcnn.data.reading import decode, list_files
from rcnn.data.splits import Split
from rcnn.data.table import read_table
from rcnn.data.yolo import YOLOFolder

HEAD = 1 << 20  # bytes of a JSON file in which its kind is looked for
LOOKED_AT = 20  # files, of those with one for each picture, by which a layout is known

Splits = dict[str, str | float | None]
"""Arguments of a source: files or folders of the splits, or shares."""


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


def find_layout(root: Path, only: str | None = None) -> Layout:
    """Return the layout of a folder, with the splits that it has.

    Args:
        root: the folder.
        only: the one layout to look for; by default all.

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
    wanted = finders if only is None else {only: finders[only]}
    found = {name: splits for name, find in wanted.items() if (splits := find(root, files))}
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


def _words(name: str, splits: Mapping[str, str | float | None]) -> str:
    return " ".join([f"data={name}", *(f"data.{key}={value}" for key, value in splits.items())])


def _find_coco(root: Path, files: Sequence[str]) -> Splits:
    """Return annotation files and image folders of a folder in COCO's layout; empty for none."""
    listed = [file for file in files if file.lower().endswith(".json")]
    # The files of Labelme, one for each picture, are not read as far as theirs may be.
    heads = {f: _head(root / f) for f in listed if not _is_labelme(root / f)}
    candidates = [file for file, head in heads.items() if _is_coco(head)]
    # COCO's own folder has the same images with other annotations, person_keypoints_train2017.json.
    candidates = [file for file in candidates if "instances" in file] or candidates
    splits: Splits = {}
    for split, file in _by_split("coco", candidates).items():
        splits[split] = file
        splits[f"{split}_images"] = _images_of(root, file, heads[file])
    return splits


def _is_coco(head: str) -> bool:
    """Return whether a JSON file lists images with boxes, by its beginning and its end."""
    has = {key for key in ("images", "annotations", "categories") if f'"{key}"' in head}
    captions = '"caption"' in head and '"bbox"' not in head
    return "images" in has and len(has) > 1 and '"file_name"' in head and not captions


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
    if not any("<annotation" in _head(root / file, 4096) for file in annotations[:LOOKED_AT]):
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
    splits: Splits = {str(split): file for split, file in _by_split("csv", list(tables)).items()}
    if splits:
        table = str(splits["train"])
        wanted = PurePosixPath(tables[table])
        pictures = [PurePosixPath(file) for file in files if _is_picture(file)]
        same = [path for path in pictures if wanted.name in (path.name, path.stem)]
        beside = PurePosixPath(table).parent
        if same and beside not in {path.parent for path in same}:
            splits["images"] = str(PurePosixPath(*same[0].parts[: -len(wanted.parts)]))
    return splits


def _find_labelme(root: Path, files: Sequence[str]) -> Splits:
    """Return the folders of Labelme files in a folder; empty for none."""
    found = [file for file in files if file.lower().endswith(".json")]
    if not any(_is_labelme(root / file) for file in found[:LOOKED_AT]):
        return {}
    tops = {PurePosixPath(file).parts[0] for file in found if "/" in file}
    splits: Splits = {}
    for split, words in SPLIT_WORDS.items():
        named = [word for word in (split, *words) if word in tops]
        if named:
            splits[split] = named[0]
    return splits if "train" in splits else {"train": "."}


def _is_labelme(file: Path) -> bool:
    """Return whether a JSON file was written by Labelme, by its beginning and its end."""
    head = _head(file, 1 << 16)
    return '"shapes"' in head and '"imagePath"' in head


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


def _by_split(layout: str, files: Sequence[str]) -> dict[Split, str]:
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
                f"data={layout} data.{split}=...",
                "two data sets in one folder",
            )
        if split is not None:
            found[split] = file
    if files and "train" not in found:
        raise DataError(
            f"None of {', '.join(files)} is named after the training split. Name it: "
            f"data={layout} data.train=...",
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
