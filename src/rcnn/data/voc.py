"""Data sets in the layout of PASCAL VOC, and the challenges by their names.

A folder holds ``Annotations/*.xml``, ``JPEGImages/*`` and ``ImageSets/Main/<split>.txt``. An
annotation has one element ``object`` per box, with 1-based inclusive corners:
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, section 11.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from rcnn.data.dataset import DetectionDataset, IndexedDataset, JoinedDataset
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.index import Corners, IndexBuilder, checked_size
from rcnn.settings import nearest

EVERYTHING = "all"  # the split of every annotation in the folder
TO_CONTINUOUS: Corners = (-1.0, -1.0, 0.0, 0.0)  # shift of 1-based inclusive corners
CORNER_NAMES = ("xmin", "ymin", "xmax", "ymax")
FLAGS = {"": False, "0": False, "1": True}


class VOCDataset(IndexedDataset):
    """The images of one split of a folder in VOC layout.

    Args:
        root: folder of ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``; the last one may be
            missing.
        split: name of a file in ``ImageSets/Main``; ``all`` takes every annotation.
        class_names: names of the labels 1..K. Without it the lines of ``classes.txt`` in ``root``;
            without that file, the sorted names over all annotations of the folder, whatever the
            split.
        on_error: what to do about a bad image or object: ``raise`` a ``DataError``, or
            ``skip`` it and say so in one ``DataWarning``.

    Raises:
        DataError: for a wrong layout, an unknown or empty split; for bad images and objects, if
            ``on_error`` is ``raise``.
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "trainval",
        class_names: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        problems = Problems(on_error)
        folder = _Folder(Path(root))
        ids = folder.ids(split)
        names = tuple(class_names or folder.listed_class_names() or folder.found_class_names())
        reader = _Reader(folder, names, problems)
        for image_id in ids:
            try:
                reader.read(image_id)
            except DataError as error:
                problems.add(error)
        super().__init__(
            class_names=names,
            index=reader.builder.build(),
            image_folder=folder.images,
            problems=problems,
            where=f"{root}, split {split!r}",
        )


class _Folder:
    """The files of a folder in VOC layout.

    Raises:
        DataError: if ``root`` has not this layout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.annotations, self.images = root / "Annotations", root / "JPEGImages"
        self.splits = root / "ImageSets" / "Main"
        for folder in (self.annotations, self.images):
            if not folder.is_dir():
                raise DataError(
                    f"{root} has not the layout of a VOC data set: there is no folder "
                    f"{folder.name}. It needs Annotations/*.xml, JPEGImages/* and, for splits, "
                    "ImageSets/Main/<split>.txt; check data.root.",
                    "wrong layout",
                )

    def ids(self, split: str) -> list[str]:
        """Return the image ids of a split in the order of its file; sorted for ``all``.

        Raises:
            DataError: if there is no such split, it is empty, or it lists an image twice.
        """
        listing = self.annotations if split == EVERYTHING else self.splits / f"{split}.txt"
        ids = self._annotated() if split == EVERYTHING else self._lines(listing)
        if ids is None:
            splits = sorted(path.stem for path in self.splits.glob("*.txt"))
            known = f"There are {', '.join(splits)}" if splits else "There are no other splits"
            raise DataError(
                f"{self.root} has no split {split!r}: {listing} does not exist. {known}; "
                f"{EVERYTHING!r} takes every annotation.",
                "unknown split",
            )
        lines: dict[str, int] = {}
        for line, image_id in enumerate(ids, start=1):
            if image_id in lines:
                raise DataError(
                    f"{listing}, line {line}: image {image_id!r} is listed in line "
                    f"{lines[image_id]} already. Delete one of the lines.",
                    "image listed twice",
                )
            if image_id:
                lines[image_id] = line
        if not lines:
            raise DataError(f"{listing} lists no image.", "empty data set")
        return list(lines)

    def image_files(self) -> dict[str, str]:
        """Return the file name of each image id's picture; .jpg goes before other formats."""
        suffixes = Image.registered_extensions()
        names = (path.name for path in self.images.iterdir())
        pictures = [name for name in names if Path(name).suffix.lower() in suffixes]
        pictures.sort(key=lambda name: (Path(name).suffix.lower() == ".jpg", name))
        return {Path(name).stem: name for name in pictures}

    def listed_class_names(self) -> tuple[str, ...]:
        """Return the lines of ``classes.txt``; none if there is no such file."""
        return tuple(filter(None, self._lines(self.root / "classes.txt") or []))

    def found_class_names(self) -> tuple[str, ...]:
        """Return the sorted class names over **all** annotations, so that all splits agree.

        A file that is no XML is passed over: the split that it belongs to reports it.
        """
        names: set[str] = set()
        for image_id in self._annotated():
            with suppress(DataError):
                root = _parse(self.annotations / f"{image_id}.xml")
                names.update(_text(item, "name") for item in root.findall("object"))
        return tuple(sorted(names - {""}))

    def _annotated(self) -> list[str]:
        return sorted(path.stem for path in self.annotations.glob("*.xml"))

    @staticmethod
    def _lines(file: Path) -> list[str] | None:
        if not file.is_file():
            return None
        return [line.strip() for line in file.read_text("utf-8-sig").splitlines()]


class _Reader:
    """Brings the images of a folder into an ``IndexBuilder``, one by one."""

    def __init__(self, folder: _Folder, class_names: tuple[str, ...], problems: Problems) -> None:
        self.builder = IndexBuilder(
            class_names, problems, noun="object", show=show_corners, shift=TO_CONTINUOUS
        )
        self._folder = folder
        self._files = folder.image_files()
        self._labels = {name: label for label, name in enumerate(class_names, start=1)}
        self._problems = problems

    def read(self, image_id: str) -> None:
        """Add one image with its objects; faults of single objects go to the log.

        Raises:
            DataError: for a fault of the image as a whole.
        """
        source = self._folder.annotations / f"{image_id}.xml"
        root = _parse(source)
        file = self._files.get(image_id, f"{image_id}.jpg")
        annotated = _annotated_size(root, source)
        size = checked_size(self._folder.images / file, annotated, str(source))
        image = self.builder.add_image(image_id, file, size, str(source))
        for number, item in enumerate(root.findall("object"), start=1):
            try:
                self._read_object(image, item, number, source)
            except DataError as error:
                self._problems.add(error)

    def _read_object(self, image: int, item: ET.Element, number: int, source: Path) -> None:
        name = _text(item, "name")
        where = f"{source}, object {number}"
        if not name:
            raise DataError.about(
                "object without class",
                where=where,
                found=f"<name> is {name!r}",
                allowed="Every object needs the name of its class",
            )
        if name not in self._labels:
            raise DataError.about(
                "unknown class",
                where=where,
                found=f"{name!r}{nearest(name, self._labels)}",
                allowed=f"The classes are {', '.join(self._labels)}",
            )
        where += f" ({name})"
        written = [_text(item, f"bndbox/{corner}") for corner in CORNER_NAMES]
        try:
            x1, y1, x2, y2 = (float(value) for value in written)
        except ValueError:
            raise DataError.about(
                "unreadable coordinate",
                where=where,
                found=" ".join(f"{a}={b!r}" for a, b in zip(CORNER_NAMES, written, strict=True)),
                allowed="<bndbox> needs the four numbers xmin, ymin, xmax, ymax",
            ) from None
        difficult = _text(item, "difficult")
        if difficult not in FLAGS:
            raise DataError.about(
                "unreadable flag",
                where=where,
                found=f"<difficult> is {difficult!r}",
                allowed="It may be 0, 1 or absent",
            )
        self.builder.add_object(
            image, number, (x1, y1, x2, y2), self._labels[name], difficult=FLAGS[difficult]
        )


def show_corners(corners: Corners) -> str:
    """Return corners as they are written in the file."""
    return " ".join(f"{name}={value:g}" for name, value in zip(CORNER_NAMES, corners, strict=True))


def _parse(file: Path) -> ET.Element:
    """Return the root element of an annotation file.

    Raises:
        DataError: if the file is missing or no XML.
    """
    try:
        return ET.parse(file).getroot()
    except FileNotFoundError as error:
        raise DataError.about(
            "missing annotation",
            where=str(file),
            found="there is no such file",
            allowed="Every image needs one; an image without objects has one without <object>",
        ) from error
    except (ET.ParseError, UnicodeDecodeError, OSError) as error:
        raise DataError.about(
            "unreadable annotation",
            where=str(file),
            found=str(error),
            allowed="It has to be one complete XML document",
        ) from error


def _annotated_size(root: ET.Element, file: Path) -> tuple[int, int] | None:
    """Return the (height, width) that an annotation states, None if it states none.

    Raises:
        DataError: if it is no number.
    """
    if root.find("size") is None:
        return None
    height, width = _text(root, "size/height"), _text(root, "size/width")
    try:
        return int(height), int(width)
    except ValueError:
        raise DataError.about(
            "wrong image size",
            where=str(file),
            found=f"<size> has height {height!r} and width {width!r}",
            allowed="Both have to be whole numbers; or leave <size> out",
        ) from None


def _text(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


# fmt: off
PASCAL_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# fmt: on
YEARS = {"VOC2007": ("2007",), "VOC2012": ("2012",), "VOC0712": ("2007", "2012")}


def pascal_voc(
    name: str,
    root: Path | str,
    split: str = "trainval",
    download: bool = False,
    on_error: OnError = "raise",
) -> DetectionDataset:
    """Open a PASCAL VOC challenge, as torchvision unpacks it (``root/VOCdevkit/VOC2007``).

    Args:
        name: ``VOC2007``, ``VOC2012``, or ``VOC0712`` for the two together. Only 2007 has a public
            test set, so the test set of ``VOC0712`` is that of 2007, as everybody reports it. Its
            image ids carry the year (``VOC2007/000005``).
        root: folder that holds or will hold ``VOCdevkit``.
        split: ``train``, ``val``, ``trainval`` or ``test``.
        download: whether to fetch what is missing (0.9 GB for 2007, 2 GB for 2012).
        on_error: see ``VOCDataset``.

    Raises:
        DataError: for an unknown name, a challenge that is not there, and as ``VOCDataset``.
    """
    if name not in YEARS:
        raise DataError(
            f"There is no challenge {name!r}{nearest(name, YEARS)} Known are {', '.join(YEARS)}.",
            "unknown data set",
        )
    if name == "VOC2012" and split == "test":
        raise DataError(
            "The annotations of the VOC2012 test set are not public; use split 'val', or the test "
            "set of VOC2007.",
            "unknown split",
        )
    years = YEARS[name][:1] if split == "test" else YEARS[name]
    parts = {f"VOC{year}": _open(year, Path(root), split, download, on_error) for year in years}
    return JoinedDataset(parts) if name == "VOC0712" else parts[name]


def _open(year: str, root: Path, split: str, download: bool, on_error: OnError) -> VOCDataset:
    folder = root / "VOCdevkit" / f"VOC{year}"
    if download and not (folder / "ImageSets" / "Main" / f"{split}.txt").is_file():
        from torchvision.datasets import VOCDetection  # slow to import and seldom needed

        VOCDetection(str(root), year=year, image_set=split, download=True)
    if not folder.is_dir():
        raise DataError(
            f"VOC{year} is not at {folder}. Unpack it there, or set data.download=true.",
            "wrong layout",
        )
    return VOCDataset(folder, split, PASCAL_CLASSES, on_error)
