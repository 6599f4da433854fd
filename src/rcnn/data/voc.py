"""Data sets in the layout of PASCAL VOC, and the challenges by their names.

A folder holds ``Annotations/*.xml``, ``JPEGImages/*`` and ``ImageSets/Main/<split>.txt``. An
annotation has one element ``object`` per box, with 1-based inclusive corners:
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, section 11.

Other folders are read as well, see ``rcnn.data.voc_folder``.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from rcnn.data.builder import IndexBuilder, Others
from rcnn.data.class_names import checked_class_names
from rcnn.data.dataset import DetectionDataset, IndexedDataset, JoinedDataset
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.images import MAX_PIXELS
from rcnn.data.outlines import Corners, polygon_corners, turned_corners
from rcnn.data.reading import decode, flag, read_lines
from rcnn.data.voc_folder import VOCFolder
from rcnn.settings import nearest

TO_CONTINUOUS: Corners = (-1.0, -1.0, 0.0, 0.0)  # shift of 1-based inclusive corners
CORNER_NAMES = ("xmin", "ymin", "xmax", "ymax")
UNREADABLE = "\ufffd"  # instead of a byte that no encoding explains


class VOCDataset(IndexedDataset):
    """The images of one split of a folder with annotations in VOC's XML.

    A split is a list of image ids, ``<split>.txt`` in ``ImageSets/Main`` or elsewhere in the
    folder, or a folder of that name with annotations. A line of a list is an id, quoted or not, or
    a file with or without its folders. What follows an id is not read: the lists of VOC's classes
    (``aeroplane_train.txt``) say 1, 0 or -1 for an image with the class, with difficult objects of
    it alone, and without it, and all of these images belong to the split.

    Args:
        root: folder of the data set.
        split: name of a list or a folder; ``all`` takes every annotation.
        class_names: names of the labels 1..K. Without it the lines of ``classes.txt`` in ``root``;
            without that file, the sorted names over all annotations of the folder, whatever the
            split.
        on_error: what to do about a bad image or object, see ``rcnn.data.errors``.
        others: what becomes of objects of classes that ``class_names`` does not have.
        max_pixels: height x width of the largest picture that is read.

    Raises:
        DataError: for a folder without annotations or pictures, an unknown or empty split; for bad
            images and objects, as ``on_error`` says.
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "trainval",
        class_names: Sequence[str] | None = None,
        on_error: OnError = "repair",
        *,
        others: Others = "drop",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        problems = Problems(on_error)
        folder = VOCFolder(Path(root))
        ids = folder.ids(split, problems)
        if class_names is None:
            others = "error"
            class_names = _listed_class_names(folder.root, problems)
        builder = IndexBuilder(
            class_names or _found_class_names(folder.sources.values()),
            problems,
            image_folder=folder.images,
            others=others,
            show=show_corners,
            shift=TO_CONTINUOUS,
            max_pixels=max_pixels,
        )
        for image_id in ids:
            source = folder.sources.get(image_id, folder.annotations / f"{image_id}.xml")
            with builder.reading(str(source)):
                _read_annotation(builder, folder, image_id, source)
        super().__init__(builder, f"{root}, split {split!r}")


def _listed_class_names(root: Path, problems: Problems) -> tuple[str, ...]:
    """Return the lines of ``classes.txt``; none if there is no such file."""
    file = root / "classes.txt"
    return checked_class_names(read_lines(file), problems, str(file)) if file.is_file() else ()


def _found_class_names(files: Iterable[Path]) -> tuple[str, ...]:
    """Return the sorted class names over **all** annotations, so that all splits agree.

    A file that cannot be read is passed over: the split that it belongs to reports it.
    """
    names: set[str] = set()
    for file in files:
        with suppress(Exception):
            root, _ = parse(file)
            names.update(_text(item, "name") for item in root.iter("object"))
    return tuple(sorted(name for name in names if name and UNREADABLE not in name))


# --- annotations -------------------------------------------------------------------------------

KNOWN = {"annotation", "object", "size", "filename"}  # elements, of which a file has at least one


def parse(file: Path) -> tuple[ET.Element, bool]:
    """Return the root element of an annotation file, and whether its encoding was as declared.

    Raises:
        DataError: if the file is missing, no XML, has no element of an annotation, or declares
            entities, by which a small file grows to gigabytes.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise DataError.about(
            "missing annotation",
            where=str(file),
            found="there is no such file",
            allowed="Every image needs one; an image without objects has one without <object>",
        ) from error
    declared = re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)", content[:200])
    text, sound = decode(content, declared[1].decode() if declared else "utf-8")
    try:
        if "<!ENTITY" in text:
            raise ValueError("it declares entities")
        root = ET.fromstring(text.strip("\ufeff\0 \t\r\n"))
        if "xmlns" in text:
            for element in root.iter():
                element.tag = element.tag.rpartition("}")[2]
        if root.tag not in KNOWN and KNOWN.isdisjoint(element.tag for element in root.iter()):
            raise ValueError(f"<{root.tag}> and what is in it are no elements of an annotation")
    except (ET.ParseError, ValueError) as error:
        raise DataError.about(
            "unreadable annotation",
            where=str(file),
            found=str(error),
            allowed="It has to be one complete XML document with the elements of VOC",
        ) from error
    return root, sound


def _read_annotation(builder: IndexBuilder, folder: VOCFolder, image_id: str, source: Path) -> None:
    """Add one image with its objects.

    Raises:
        DataError: for a fault of the image as a whole, or of an object without a known box.
    """
    root, sound = parse(source)
    if not sound:
        builder.problems.settle(
            "wrong encoding",
            where=str(source),
            found="it is not in the encoding that it declares",
            made="read as UTF-8",
        )
    size = root.find(".//size")
    written = (_text(size, "height"), _text(size, "width")) if size is not None else ("", "")
    file = folder.picture(image_id, _text(root, "filename"))
    image = builder.add_image(image_id, file, written, source=str(source))
    for number, item in enumerate(root.iter("object"), start=1):
        if flag(_text(item, "deleted")):  # LabelMe keeps what was deleted
            continue
        name = _text(item, "name")
        where = f"{source}, object {number}" + f" ({name})" * bool(name)
        if UNREADABLE in name:
            raise DataError.about(
                "unreadable class name",
                where=where,
                found=repr(name),
                allowed="Save the file in UTF-8, or declare its encoding in the first line",
            )
        for count, corners in enumerate(_boxes(item, where, builder.problems), start=1):
            if count > 1:
                builder.problems.settle(
                    "second box of an object",
                    where=where,
                    found=show_corners(corners),
                    made="an object of its own",
                )
            builder.add_object(image, number, corners, name, difficult=_text(item, "difficult"))


def _boxes(item: ET.Element, where: str, problems: Problems) -> list[Corners]:
    """Return the boxes of an object; without one, the box around its outline.

    Raises:
        DataError: if there is none, or it cannot be read.
    """
    boxes = item.findall("bndbox")
    if boxes:
        return [_corners(box, where) for box in boxes]
    for kind in ("polygon", "robndbox", "mask"):
        outline = item.find(kind)
        if outline is not None:
            try:
                corners = _around(outline)
            except Exception as error:
                found = f"<{kind}> is unreadable ({type(error).__name__}: {error})"
                raise _unreadable(where, found) from error
            made = f"the box around its <{kind}>"
            problems.settle("object without box", where=where, found="no <bndbox>", made=made)
            return [corners]
    raise _unreadable(where, "there is no <bndbox>")


def _unreadable(where: str, found: str) -> DataError:
    rule = "An object needs <bndbox> with the four numbers xmin, ymin, xmax, ymax"
    return DataError.about("unreadable coordinate", where=where, found=found, allowed=rule)


def _corners(box: ET.Element, where: str) -> Corners:
    written = [_text(box, name) for name in CORNER_NAMES]
    try:
        x1, y1, x2, y2 = map(float, written)
    except ValueError:
        pairs = zip(CORNER_NAMES, written, strict=True)
        raise _unreadable(where, " ".join(f"{a}={b!r}" for a, b in pairs)) from None
    return x1, y1, x2, y2


def _around(outline: ET.Element) -> Corners:
    """Return the box around a polygon, a turned box (of roLabelImg) or a mask (of CVAT)."""
    values = {child.tag: (child.text or "").strip() for child in outline} | outline.attrib
    if outline.tag == "robndbox":
        x, y, width, height, angle = (float(values[key]) for key in ("cx", "cy", "w", "h", "angle"))
        return turned_corners(x, y, width, height, angle)
    if outline.tag == "mask":  # its run lengths are of the smallest box around it
        left, top, width, height = (
            float(values[key]) for key in ("left", "top", "width", "height")
        )
        return left, top, left + width, top + height
    points = [(_text(point, "x"), _text(point, "y")) for point in outline.iter("pt")]
    numbered = sorted((int(key[1:]), key[0]) for key in values if re.fullmatch(r"[xy]\d+", key))
    return polygon_corners(points or [values[f"{axis}{number}"] for number, axis in numbered])


def show_corners(corners: Corners) -> str:
    """Return corners as they are written in the file."""
    return " ".join(f"{name}={value:g}" for name, value in zip(CORNER_NAMES, corners, strict=True))


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
    on_error: OnError = "repair",
    *,
    class_names: Sequence[str] | None = None,
    others: Others = "drop",
    max_pixels: int = MAX_PIXELS,
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
        class_names: names of the labels 1..K; without them, the twenty of VOC.
        others: see ``VOCDataset``.
        max_pixels: see ``VOCDataset``.

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
    if class_names is None:
        class_names, others = PASCAL_CLASSES, "error"
    parts: dict[str, DetectionDataset] = {}
    for year in YEARS[name][:1] if split == "test" else YEARS[name]:
        folder = Path(root, "VOCdevkit", f"VOC{year}")
        if download and not (folder / "ImageSets" / "Main" / f"{split}.txt").is_file():
            from torchvision.datasets import VOCDetection  # slow to import and seldom needed

            VOCDetection(str(root), year=year, image_set=split, download=True)
        if not folder.is_dir():
            raise DataError(
                f"VOC{year} is not at {folder.absolute()}. Unpack it there, or set "
                "data.download=true.",
                "wrong layout",
            )
        parts[f"VOC{year}"] = VOCDataset(
            folder, split, class_names, on_error, others=others, max_pixels=max_pixels
        )
    return JoinedDataset(parts) if name == "VOC0712" else parts[name]
