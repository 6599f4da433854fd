"""The files of a data set with annotations in the XML of PASCAL VOC, in whatever folders they are.

Labelling tools keep the XML and change the folders: annotations and pictures lie in ``Annotations``
and ``JPEGImages``, beside each other, in ``annotations`` and ``images``, or in a folder for each
split.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from rcnn.data.errors import DataError, Problems
from rcnn.data.reading import list_files, read_lines

EVERYTHING = "all"  # the split of every annotation in the folder
SPLIT_NAMES = {"train": ("training",), "val": ("valid", "validation"), "test": ("testing",)}
IMAGE_FOLDER = re.compile("image|img|jpeg", re.IGNORECASE)


class VOCFolder:
    """The files of a data set; the folders of annotations and pictures are found by content.

    Attributes:
        root: folder of the data set.
        images: folder that the pictures' names are relative to.
        annotations: folder that all annotations share.
        sources: file of each image id, which is its path without the folder that all files share.

    Raises:
        DataError: if there are no annotations, or no pictures.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
        annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
        suffixes = Image.registered_extensions()
        pictures = [name for name in list_files(self.images) if _suffix(name).lower() in suffixes]
        files = [name for name in list_files(annotations) if _suffix(name).lower() == ".xml"]
        if not files or not pictures:
            raise _nothing_found(root, len(files), len(pictures))
        shared = posixpath.commonpath([posixpath.dirname(name) for name in files])
        self.annotations = annotations / shared
        start = len(shared) + bool(shared)
        self.sources = {name[start:-4]: annotations / name for name in sorted(files)}
        self._ids: defaultdict[str, list[str]] = defaultdict(list)  # by their last part
        for image_id in self.sources:
            self._ids[_base(image_id)].append(image_id)
        self._pictures: defaultdict[str, list[str]] = defaultdict(list)
        for name in pictures:
            for key in (_base(name), _base(_stem(name))):
                self._pictures[key].append(name)
        self._annotated: dict[str, str] = {}

    def ids(self, split: str, problems: Problems) -> list[str]:
        """Return the image ids of a split in the order of its list; sorted without one.

        Raises:
            DataError: if there is no such split, or it is empty.
        """
        if split == EVERYTHING:
            return list(self.sources)
        names = (split, *SPLIT_NAMES.get(split, ()))
        listing = self._listing(names)
        if listing is None:
            below = [
                image_id
                for image_id, file in self.sources.items()
                if not {*names}.isdisjoint(file.relative_to(self.root).parts[:-1])
            ]
            if below:
                return below
            splits = sorted(path.stem for path in (self.root / "ImageSets/Main").glob("*.txt"))
            known = f"There are {', '.join(splits)}" if splits else "There are no other splits"
            raise DataError(
                f"{self.root} has no split {split!r}: in {self.root.absolute()} there is neither "
                f"ImageSets/Main/{split}.txt nor another list or a folder of this name. {known}; "
                f"{EVERYTHING!r} takes every annotation.",
                "unknown split",
            )
        lines: dict[str, int] = {}
        for number, line in enumerate(read_lines(listing), start=1):
            image_id = self._id_of(line)
            if image_id in lines:
                problems.settle(
                    "image listed twice",
                    where=f"{listing}, line {number}",
                    found=f"{image_id!r} is in line {lines[image_id]} already",
                    made="it counts once",
                )
            elif image_id:
                lines[image_id] = number
        if not lines:
            raise DataError(f"{listing.absolute()} lists no image.", "empty data set")
        return list(lines)

    def _listing(self, names: Sequence[str]) -> Path | None:
        """Return the list of a split, None without one.

        Raises:
            DataError: if there are several in the folder.
        """
        usual = self.root / "ImageSets" / "Main"
        wanted = [f"{name}.txt" for name in names]
        if usual.is_dir():
            return next((usual / name for name in wanted if (usual / name).is_file()), None)
        found = [name for name in list_files(self.root) if _base(name) in wanted]
        if len(found) > 1:
            raise DataError.about(
                "two data sets in one folder",
                where=str(self.root.absolute()),
                found=f"lists of the split: {', '.join(found)}",
                allowed="Set data.root to the folder of one of them",
            )
        return self.root / found[0] if found else None

    def _id_of(self, line: str) -> str:
        """Return the image id that a line of a list names."""
        words = [line, re.sub(r"\s+-?\d+$", "", line), *line.split()[:1]]
        names = [word.strip("\"'").replace("\\", "/").removeprefix("./") for word in words]
        for key in (key for name in names for key in (name, _stem(name))):
            found = [
                image_id
                for image_id in self._ids.get(_base(key), [])
                if f"/{key}".endswith(f"/{image_id}") or image_id.endswith(f"/{key}")
            ]
            if key in found or len(found) == 1:
                return key if key in found else found[0]
        return names[1]

    def picture(self, image_id: str, written: str) -> str:
        """Return the picture of an annotation: of its name, else of the name written in it.

        Of several, the one beside it goes before the one in a folder of the same name, a folder of
        images before others, and .jpg before other formats.

        Args:
            image_id: one of ``sources``.
            written: name in the annotation.

        Raises:
            DataError: if pictures of different folders are equally good, or another annotation
                has the same one.
        """
        written = _base(written.replace("\\", "/"))
        keys = (_base(image_id), written, _stem(written))
        found = next((self._pictures[key] for key in keys if key in self._pictures), [])
        if len(found) > 1:
            beside = posixpath.relpath(self.annotations / image_id, self.images)
            for fitting in (
                [name for name in found if _stem(name) == beside],
                [name for name in found if f"/{_stem(name)}".endswith(f"/{image_id}")],
                [name for name in found if IMAGE_FOLDER.search(posixpath.dirname(name))],
            ):
                found = [name for name in fitting if name in found] or found
        if len({posixpath.dirname(name) for name in found}) > 1:
            raise DataError.about(
                "two pictures of one name",
                where=str(self.sources[image_id]),
                found=" and ".join(found[:2]),
                allowed="Keep one, or move the pictures of the data set to JPEGImages",
            )
        if not found:
            return f"{image_id}.jpg"
        file = max(found, key=lambda name: (name.lower().endswith(".jpg"), name))
        if self._annotated.setdefault(file, image_id) != image_id:
            raise DataError.about(
                "two annotations of one picture",
                where=str(self.sources[image_id]),
                found=f"{file} is that of {self.sources[self._annotated[file]]}, too",
                allowed="Set data.root to a folder with one data set",
            )
        return file


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1]


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _nothing_found(root: Path, annotations: int, pictures: int) -> DataError:
    """Return the error for a folder in which annotations or pictures are missing."""
    if not root.is_dir():
        found, remedy = "there is no such folder", "Set data.root to the folder of the data set"
    elif not annotations:
        found = f"no annotation (*.xml), and {pictures} pictures"
        remedy = (
            "A VOC data set has an XML file for each picture, in Annotations or beside it; choose "
            "another layout with data=coco, or label the pictures"
        )
    else:
        found = f"{annotations} annotations (*.xml), but no picture"
        remedy = "Put the pictures into JPEGImages, or beside the annotations"
    return DataError.about(
        "no data set", where=f"{root.absolute()}, all folders below", found=found, allowed=remedy
    )
