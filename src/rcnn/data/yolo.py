"""Data sets in the layout of YOLO: a text file of labels beside the pictures.

A file in YAML names the classes and the splits; the labels of ``images/train/a.jpg`` are in
``labels/train/a.txt``, or beside the picture. A line is an object: the number of its class, counted
from 0, and either centre, width and height of its box or the points of its outline, all in parts of
the image. A picture without a file of labels has no objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from PIL import Image

from rcnn.data.builder import IndexBuilder, Others
from rcnn.data.class_names import checked_class_names
from rcnn.data.dataset import IndexedDataset
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.images import MAX_PIXELS
from rcnn.data.outlines import Corners, polygon_corners
from rcnn.data.reading import decode, list_files, read_lines

CLASS_LISTS = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
SPLIT_NAMES = {"val": ("val", "valid", "validation")}
INSIDE = 0.01  # part of the image by which a coordinate may pass its border and still be a part


class YOLODataset(IndexedDataset):
    """The images of one split of a folder in YOLO layout.

    Args:
        root: folder of the data set, or its YAML file. Without such a file the splits are folders
            below it, or lists (``train.txt``), and the classes are the lines of ``classes.txt`` or
            ``obj.names``.
        split: ``train``, ``val`` or ``test``; ``all`` takes every picture below the folder.
        class_names: names of the labels 1..K, which selects and orders them; by default the file's.
        on_error: what to do about a bad image or object, see ``rcnn.data.errors``.
        others: what becomes of objects of classes that ``class_names`` does not have.
        max_pixels: height x width of the largest picture that is read.

    Raises:
        DataError: for a folder without pictures or class names, an unknown or empty split; for bad
            images and objects, as ``on_error`` says.
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "train",
        class_names: Sequence[str] | None = None,
        on_error: OnError = "repair",
        *,
        others: Others = "drop",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        problems = Problems(on_error)
        folder = YOLOFolder(Path(root))
        names = folder.class_names(problems)
        builder = IndexBuilder(
            class_names or checked_class_names(names, problems, str(folder.described)),
            problems,
            image_folder=folder.root,
            others="error" if class_names is None else others,
            object_name="line {}".format,
            show=_show,
            max_pixels=max_pixels,
        )
        pictures = folder.pictures(split)
        if not any(folder.labels_of(file).is_file() for file in pictures):
            expected = folder.labels_of(pictures[0]).absolute()
            raise DataError(
                f"{folder.root.absolute()}, split {split!r}: none of its {len(pictures)} pictures "
                f"has a file of labels: {expected} does not exist. Labels lie beside the pictures, "
                "or in labels/ where these are in images/.",
                "missing labels",
            )
        for file in pictures:
            labels = folder.labels_of(file)
            with builder.reading(str(labels)):
                image = builder.add_image(file, file, source=str(labels))
                if labels.is_file():
                    _read_labels(builder, image, labels, names)
        super().__init__(builder, f"{root}, split {split!r}")


class YOLOFolder:
    """The files of a data set in YOLO layout.

    Args:
        root: folder of the data set, or its YAML file.

    Attributes:
        root: folder that the pictures' names are relative to.
        described: YAML file, or the list of classes; the folder if there is neither.

    Raises:
        DataError: the YAML file cannot be read.
    """

    def __init__(self, root: Path) -> None:
        is_file = root.suffix.lower() in (".yaml", ".yml")
        self.root = root.parent if is_file else root
        self._content: Mapping[str, Any] = {}
        self.described = self.root
        for file in [root] if is_file else self._files(".yaml", ".yml"):
            content = _yaml(file)
            if "names" in content:
                self._content, self.described = content, file
                break
        lists = (self.root / name for name in CLASS_LISTS)
        self._list = next((file for file in lists if file.is_file()), None)
        if not self._content and self._list is not None:
            self.described = self._list

    def class_names(self, problems: Problems) -> tuple[str, ...]:
        """Return the names of the classes 0, 1 and so on, as the file has them.

        Without a file that names them, their numbers in the labels are the names.

        Raises:
            DataError: they are not in a list or by number, or there are no labels either.
        """
        names = self._content.get("names")
        if isinstance(names, Mapping):
            numbered = {int(number): str(name) for number, name in names.items()}
            names = [numbered.get(n, "") for n in range(max(numbered, default=-1) + 1)]
        if names is None and self._list is not None:
            names = [line for line in read_lines(self._list) if line]
        if names is None and (count := self._largest_class() + 1):
            names = [str(number) for number in range(count)]
            problems.note(
                "classes without names",
                where=str(self.root),
                found=f"no YAML file with names, none of {', '.join(CLASS_LISTS)}",
                made=f"their numbers 0 to {count - 1} are the names",
            )
        if not isinstance(names, list | tuple) or not names:
            raise DataError(
                f"{self.root.absolute()} has no names of classes: neither a YAML file with the key "
                f"names nor {', '.join(CLASS_LISTS)}. Add one with a line for each class.",
                "missing class names",
            )
        return tuple(map(str, names))

    def _largest_class(self) -> int:
        """Return the largest number of a class in all labels, -1 without any."""
        largest = -1
        for picture in _pictures(self.root):
            labels = self.labels_of(picture)
            for line in read_lines(labels) if labels.is_file() else ():
                number = line.partition(" ")[0]
                if number.isdecimal():
                    largest = max(largest, int(number))
        return largest

    @property
    def is_described(self) -> bool:
        """Whether a YAML file names the classes."""
        return bool(self._content)

    def has(self, split: str) -> bool:
        """Return whether there is such a split."""
        return bool(self._sources(split))

    def pictures(self, split: str) -> list[str]:
        """Return the pictures of a split, relative to ``root``: in a list's order, else sorted.

        Raises:
            DataError: if there is no such split, or it is empty.
        """
        if split == "all":
            found = [str(file) for file in _pictures(self.root)]
        else:
            sources = self._sources(split)
            if not sources:
                known = [name for name in ("train", "val", "test") if self._sources(name)]
                raise DataError(
                    f"{self.root.absolute()} has no split {split!r}: {self.described.name} does "
                    f"not name it, and there is no folder or list of this name. There are "
                    f"{', '.join(known) or 'no splits'}; 'all' takes every picture.",
                    "unknown split",
                )
            found = [file for source in sources for file in self._listed(source)]
        if not found:
            raise DataError(
                f"{self.root.absolute()}, split {split!r}: there is no picture in "
                f"{', '.join(map(str, self._sources(split))) or 'it'}.",
                "empty data set",
            )
        return found

    def labels_of(self, picture: str) -> Path:
        """Return the file of a picture's labels, which may not exist."""
        beside = self.root / PurePosixPath(picture).with_suffix(".txt")
        parts = PurePosixPath(picture).with_suffix(".txt").parts
        at = [n for n, part in enumerate(parts) if part.lower() == "images"]
        if not at:
            return beside
        apart = self.root.joinpath(*parts[: at[-1]], "labels", *parts[at[-1] + 1 :])
        return beside if beside.is_file() and not apart.is_file() else apart

    def _sources(self, split: str) -> list[Path]:
        """Return the folders and lists of a split."""
        keys = SPLIT_NAMES.get(split, (split,))
        written = next((self._content[key] for key in keys if self._content.get(key)), None)
        if written is not None:
            each = written if isinstance(written, list) else [written]
            return [self._resolved(str(one)) for one in each]
        candidates = (
            self.root / name
            for key in keys
            for name in (f"images/{key}", f"{key}/images", f"{key}.txt", key)
        )
        return [path for path in candidates if path.exists()][:1]

    def _resolved(self, written: str) -> Path:
        """Return the path that a YAML file names, seen from where it can be found."""
        bases = [self.root / str(self._content.get("path") or ""), self.root]
        plain = written.replace("\\", "/")
        # Exports name ../train/images although the folder lies beside the file.
        names = (plain, plain.removeprefix("../"))
        paths = [base / name for base in bases for name in names]
        return next((path for path in paths if path.exists()), paths[0])

    def _listed(self, source: Path) -> list[str]:
        """Return the pictures of a folder or a list, relative to ``root``."""
        if not source.exists():
            raise DataError.about(
                "missing split",
                where=str(self.described),
                found=f"{source.absolute()} does not exist",
                allowed="Correct the path in it, or set data.root to the folder it is seen from",
            )
        if source.is_dir():
            return [self._relative(source / file) for file in _pictures(source)]
        lines = [line.replace("\\", "/") for line in read_lines(source) if line]
        return [self._relative(self._found(line, source.parent)) for line in lines]

    def _found(self, line: str, beside: Path) -> Path:
        """Return the picture that a line of a list names; CVAT puts a folder before that is not."""
        parts = PurePosixPath(line).parts
        paths = [beside / line, *(self.root.joinpath(*parts[n:]) for n in range(len(parts)))]
        return next((path for path in paths if path.is_file()), self.root / line)

    def _relative(self, path: Path) -> str:
        try:
            return path.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:  # a picture outside of the folder
            return path.absolute().as_posix()

    def _files(self, *suffixes: str) -> list[Path]:
        if not self.root.is_dir():
            return []
        names = sorted(path for path in self.root.iterdir() if path.suffix.lower() in suffixes)
        return sorted(names, key=lambda path: path.stem != "data")


def _pictures(folder: Path) -> list[str]:
    suffixes = Image.registered_extensions()
    return [file for file in list_files(folder) if PurePosixPath(file).suffix.lower() in suffixes]


def _yaml(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(decode(file.read_bytes())[0])
    except (OSError, yaml.YAMLError) as error:
        raise DataError.about(
            "unreadable annotation",
            where=str(file),
            found=" ".join(str(error).split()),
            allowed="It has to be YAML with the keys train, val and names",
        ) from error
    return content if isinstance(content, Mapping) else {}


def _read_labels(builder: IndexBuilder, image: int, labels: Path, names: Sequence[str]) -> None:
    """Add the objects of a file of labels."""
    height, width = builder.size(image)
    for number, line in enumerate(read_lines(labels), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{labels}, line {number}"
        values = [float(word) for word in words]
        label = int(values[0])
        if label != values[0] or not 0 <= label < len(names):
            name = f"class number {words[0]}"
        else:
            name = names[label]
        corners = _corners(values[1:], where, line)
        pixels = [corners[0] * width, corners[1] * height, corners[2] * width, corners[3] * height]
        builder.add_object(image, number, pixels, name)


def _corners(values: list[float], where: str, line: str) -> Corners:
    """Return the corners of a box or an outline, in parts of the image.

    Raises:
        DataError: it is neither, or is in pixels.
    """
    if len(values) in (4, 5):  # the fifth is the score of a prediction
        x, y, width, height = values[:4]
        corners = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    elif len(values) >= 6 and len(values) % 2 == 0:
        corners = polygon_corners(values)
    else:
        raise DataError.about(
            "unreadable coordinate",
            where=where,
            found=repr(line),
            allowed="A line has the number of a class, then x, y, width and height, or the points "
            "of an outline",
        )
    if max(values[:4]) > 1 + INSIDE and min(corners[2:]) > 2:
        raise DataError.about(
            "coordinates in pixels",
            where=where,
            found=repr(line),
            allowed="Coordinates are parts of the image, 0..1",
        )
    return corners


def _show(corners: Corners) -> str:
    return "corners {:g} {:g} {:g} {:g} in pixels".format(*corners)
