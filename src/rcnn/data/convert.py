"""Writing a data set in another layout: COCO, VOC, YOLO or CSV.

Boxes are written with all digits, so that what is read again is what was read. What a layout has no
word for is counted and told: YOLO and CSV tables know no ignored regions, and YOLO no difficult
objects.
"""

from __future__ import annotations

import csv
import json
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from PIL import Image

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.data.images import read_header
from rcnn.data.outlines import Corners
from rcnn.files import whole_file
from rcnn.structures import GroundTruth

Counts = Counter[str]
"""Number of objects that could not be written, by their kind."""


def convert(splits: Mapping[str, DetectionDataset], layout: str, out: Path) -> Counts:
    """Write a data set in another layout, pictures and annotations.

    Args:
        splits: data sets of the same classes, by split.
        layout: ``coco``, ``voc``, ``yolo`` or ``csv``.
        out: folder, made when needed; it has to be empty.

    Returns:
        The number of objects of each kind that the layout cannot express.

    Raises:
        DataError: the folder is not empty, a picture cannot be read, or two splits have the same
            image name where the layout has one folder for both.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(
            f"{out.absolute()} is not empty. Name a folder that does not exist yet.", "used folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    lost: Counts = Counter()
    WRITERS[layout](splits, out, lost)
    return lost


def _copy(dataset: DetectionDataset, index: int, folder: Path, names: set[str]) -> str:
    """Copy or write the picture of an image, and return its name in the folder.

    A picture that its annotation counts turned is written turned, because not every layout states
    sizes.
    """
    height, width = dataset.sizes[index].tolist()
    file = dataset.file(index)
    plain = file is not None and read_header(file).turned_size == (height, width)
    suffix = file.suffix if file is not None and plain else ".png"
    stem = PurePosixPath(dataset.image_ids[index])
    stem = stem.with_suffix("") if stem.suffix.lower() in Image.registered_extensions() else stem
    name = str(stem).strip("/").replace("/", "_") + suffix
    if name in names:
        raise DataError(
            f"Two images would be called {name} in {folder.absolute()}. Convert the splits one by "
            "one, or give the images names of their own.",
            "two pictures of one name",
        )
    names.add(name)
    folder.mkdir(parents=True, exist_ok=True)
    if plain and file is not None:
        shutil.copy2(file, folder / name)
    else:
        Image.fromarray(dataset[index].image.permute(1, 2, 0).numpy()).save(folder / name)
    return name


def _write_coco(splits: Mapping[str, DetectionDataset], out: Path, lost: Counts) -> None:
    for split, dataset in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        names: set[str] = set()
        for index in range(len(dataset)):
            name = _copy(dataset, index, out / split, names)
            height, width = dataset.sizes[index].tolist()
            number = index + 1
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            found = dataset.ground_truth(index)
            for row, (x1, y1, x2, y2) in enumerate(found.boxes.double().tolist()):
                label = int(found.labels[row])
                lost["ignored region of no class"] += label == 0
                if label > 0:
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": number,
                            "category_id": label,
                            "bbox": [x1, y1, x2 - x1, y2 - y1],
                            "area": float(found.areas[row]),
                            "iscrowd": int(found.crowd[row]),
                            "ignore": int(found.difficult[row]),
                        }
                    )
        categories = [{"id": k, "name": n} for k, n in enumerate(dataset.class_names, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        _write(out / "annotations" / f"instances_{split}.json", json.dumps(content))


def _write_voc(splits: Mapping[str, DetectionDataset], out: Path, lost: Counts) -> None:
    names: set[str] = set()
    for split, dataset in splits.items():
        ids = []
        for index in range(len(dataset)):
            name = _copy(dataset, index, out / "JPEGImages", names)
            ids.append(PurePosixPath(name).stem)
            root = ET.Element("annotation")
            ET.SubElement(root, "filename").text = name
            height, width = dataset.sizes[index].tolist()
            _add(ET.SubElement(root, "size"), width=width, height=height, depth=3)
            for difficult, label, (x1, y1, x2, y2) in _objects(dataset, index, lost):
                item = ET.SubElement(root, "object")
                _add(item, name=dataset.class_names[label - 1], difficult=int(difficult))
                box = ET.SubElement(item, "bndbox")  # 1-based, inclusive corners
                _add(box, xmin=x1 + 1, ymin=y1 + 1, xmax=x2, ymax=y2)
            ET.indent(root)
            _write(out / "Annotations" / f"{ids[-1]}.xml", ET.tostring(root, encoding="unicode"))
        _write(out / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in ids))
    _write(out / "classes.txt", "".join(f"{name}\n" for name in _class_names(splits)))


def _write_yolo(splits: Mapping[str, DetectionDataset], out: Path, lost: Counts) -> None:
    content: dict[str, Any] = {"path": "."}
    for split, dataset in splits.items():
        files = []
        names: set[str] = set()
        for index in range(len(dataset)):
            name = _copy(dataset, index, out / "images" / split, names)
            files.append(f"./images/{split}/{name}\n")
            height, width = dataset.sizes[index].tolist()
            lines = []
            for difficult, label, (x1, y1, x2, y2) in _objects(dataset, index, lost):
                lost["flag of a difficult object"] += difficult
                box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
                sides = ((x2 - x1) / width, (y2 - y1) / height)
                lines.append(" ".join(map(repr, (label - 1, *box, *sides))) + "\n")
            labels = PurePosixPath(name).with_suffix(".txt")
            _write(out / "labels" / split / labels, "".join(lines))
        _write(out / f"{split}.txt", "".join(files))  # a folder would lose the order
        content[split] = f"{split}.txt"
    content["names"] = dict(enumerate(_class_names(splits)))
    _write(out / "data.yaml", yaml.safe_dump(content, allow_unicode=True, sort_keys=False))


def _write_csv(splits: Mapping[str, DetectionDataset], out: Path, lost: Counts) -> None:
    heads = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", "difficult")
    for split, dataset in splits.items():
        names: set[str] = set()
        with whole_file(out / f"{split}.csv") as partial, partial.open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(heads)
            for index in range(len(dataset)):
                name = f"{split}/{_copy(dataset, index, out / split, names)}"
                height, width = dataset.sizes[index].tolist()
                rows: list[tuple[object, ...]] = [
                    (dataset.class_names[label - 1], *box, int(difficult))
                    for difficult, label, box in _objects(dataset, index, lost)
                ]
                for row in rows or [("",) * 6]:
                    table.writerow((name, width, height, *row))
    _write(out / "classes.txt", "".join(f"{name}\n" for name in _class_names(splits)))


WRITERS: dict[str, Callable[[Mapping[str, DetectionDataset], Path, Counts], None]] = {
    "coco": _write_coco,
    "voc": _write_voc,
    "yolo": _write_yolo,
    "csv": _write_csv,
}
"""The writer of each layout."""


def _objects(
    dataset: DetectionDataset, index: int, lost: Counts
) -> list[tuple[bool, int, Corners]]:
    """Return flags, class and corners of the objects of an image, without regions of many."""
    found: GroundTruth = dataset.ground_truth(index)
    lost["region of many objects, or ignored"] += int(found.crowd.sum())
    kept = ~found.crowd
    rows = zip(
        found.difficult[kept].tolist(),
        found.labels[kept].tolist(),
        found.boxes[kept].double().tolist(),
        strict=True,
    )
    return [(difficult, label, (x1, y1, x2, y2)) for difficult, label, (x1, y1, x2, y2) in rows]


def _class_names(splits: Mapping[str, DetectionDataset]) -> tuple[str, ...]:
    return next(iter(splits.values())).class_names


def _add(parent: ET.Element, **values: object) -> None:
    for name, value in values.items():
        ET.SubElement(parent, name).text = str(value)


def _write(file: Path, text: str) -> None:
    with whole_file(file) as partial:
        partial.write_text(text, encoding="utf-8")
