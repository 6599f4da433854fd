"""A folder in the layout of PASCAL VOC."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from PIL import Image

from rcnn.data.errors import DataError
from rcnn.data.voc_annotation import object_names, parse

# The name that stands for "every annotation in the folder" instead of a list of images.
EVERYTHING = "all"


class VOCFolder:
    """``Annotations/*.xml``, ``JPEGImages/*`` and ``ImageSets/Main/<split>.txt``.

    Args:
        root: the folder that holds the three; the last one may be missing.

    Raises:
        DataError: if ``root`` has not this layout.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.image_folder = self.root / "JPEGImages"
        self._annotations = self.root / "Annotations"
        self._splits = self.root / "ImageSets" / "Main"
        for folder in (self._annotations, self.image_folder):
            if not folder.is_dir():
                raise DataError(
                    f"{self.root} has not the layout of a VOC data set: there is no folder "
                    f"{folder.name}. It needs Annotations/*.xml, JPEGImages/* and, for splits, "
                    "ImageSets/Main/<split>.txt; check data.root.",
                    "wrong layout",
                )

    def ids(self, split: str) -> list[str]:
        """Return the image ids of a split in the order of its file; sorted for ``all``.

        Raises:
            DataError: if there is no such split, it is empty, or it lists an image twice.
        """
        if split == EVERYTHING:
            ids = self._annotated()
            where = self._annotations
        else:
            where = self._splits / f"{split}.txt"
            if not where.is_file():
                raise self._unknown_split(split)
            ids = [line.strip() for line in where.read_text("utf-8-sig").splitlines()]
        lines: dict[str, int] = {}
        for line, image_id in enumerate(ids, start=1):
            if image_id in lines:
                raise DataError(
                    f"{where}, line {line}: image {image_id!r} stands in line {lines[image_id]} "
                    "already. Every image may be listed once; delete one of the lines.",
                    "image listed twice",
                )
            if image_id:
                lines[image_id] = line
        if not lines:
            raise DataError(f"{where} lists no image.", "empty data set")
        return list(lines)

    def annotation_file(self, image_id: str) -> Path:
        """Return the annotation file of an image."""
        return self._annotations / f"{image_id}.xml"

    def image_files(self) -> dict[str, str]:
        """Return the file name of the picture of each image id; .jpg goes before other formats."""
        suffixes = Image.registered_extensions()
        names = (path.name for path in self.image_folder.iterdir())
        pictures = [name for name in names if Path(name).suffix.lower() in suffixes]
        pictures.sort(key=lambda name: (Path(name).suffix.lower() == ".jpg", name))
        return {Path(name).stem: name for name in pictures}

    def listed_class_names(self) -> tuple[str, ...] | None:
        """Return the lines of ``classes.txt``, or None if there is no such file."""
        file = self.root / "classes.txt"
        if not file.is_file():
            return None
        return tuple(
            line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()
        )

    def found_class_names(self) -> tuple[str, ...]:
        """Return the sorted class names over **all** annotations, so that all splits agree.

        A file that is no XML is passed over: the split that it belongs to reports it.
        """
        names: set[str] = set()
        for image_id in self._annotated():
            with suppress(DataError):
                names |= object_names(parse(self.annotation_file(image_id)))
        return tuple(sorted(names))

    def _annotated(self) -> list[str]:
        return sorted(path.stem for path in self._annotations.glob("*.xml"))

    def _unknown_split(self, split: str) -> DataError:
        there = sorted(path.stem for path in self._splits.glob("*.txt"))
        known = f"There are {', '.join(there)}" if there else "There are no other splits"
        return DataError(
            f"{self.root} has no split {split!r}: {self._splits / f'{split}.txt'} does not exist. "
            f"{known}; {EVERYTHING!r} takes every annotation.",
            "unknown split",
        )
