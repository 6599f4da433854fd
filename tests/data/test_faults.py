"""What the readers make of every kind of fault, under each policy: one table for all layouts.

Each row spoils an image whose other object is sound, in a data set with a second, sound image.
As a program this file prints the table of the documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import COCODataset, DataError, DataWarning, IndexedDataset, OnError, VOCDataset

Object = tuple[str, list[float]]  # class, or "ignored", and box
ERROR = "error"
GONE = "gone"  # the image is left out


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one layout.

    Attributes:
        kind: its name in the log; a regular expression.
        written: what the file has in the place of a sound object or image.
        repair: the objects that it becomes, ``GONE`` or ``ERROR``.
        skip: the same under ``skip``; None: as under ``repair``.
        where: the words that name the object, in the log and in the error.
    """

    kind: str
    written: Any
    repair: Sequence[Object] | str
    skip: Sequence[Object] | str | None = None
    where: str = ""


MADE = {
    "annotation of no image": "left out",
    "box outside the image": "left out",
    "box over the border": "clipped to the image",
    "box without area": "left out",
    "image file under another name": "seven.jpg",
    "image listed twice": "it counts once",
    "object without box": "the box around its",
    "second box of an object": "an object of its own",
    "unreadable area": "the area of the box",
    "unusable image size": "the size of the picture file",
    "wrong encoding": "read as UTF-8",
}
"""What the log says of the kinds that can be settled."""


def box(x1: object, y1: object, x2: object, y2: object) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    values = zip(names, (x1, y1, x2, y2), strict=True)
    return f"<bndbox>{''.join(f'<{name}>{value}</{name}>' for name, value in values)}</bndbox>"


def xml(inside: str, name: str = "dog", flag: object = 0) -> str:
    return f"<object><name>{name}</name><difficult>{flag}</difficult>{inside}</object>"


SIZE = "<size><width>{}</width><height>{}</height></size>"
REGION: list[Object] = [("ignored", [4, 4, 9, 9])]
DOG: list[Object] = [("dog", [4, 4, 9, 9])]

VOC_OBJECTS = [
    Fault("box over the border", xml(box(5, 5, 65, 9)), [("dog", [4, 4, 60, 9])]),
    Fault("box outside the image", xml(box(70, 5, 80, 9)), []),
    Fault("box without area", xml(box(5, 5, 5, 9)), []),
    Fault("inverted box", xml(box(9, 5, 5, 9)), ERROR, [("ignored", [4, 4, 9, 9])]),
    Fault("wrapped-around coordinate", xml(box(65535, 5, 9, 9)), ERROR, GONE),
    Fault("coordinate that is no finite number", xml(box("nan", 5, 9, 9)), ERROR, GONE),
    Fault("unreadable coordinate", xml(box("left", 5, 9, 9)), ERROR, GONE),
    Fault("unreadable coordinate", xml(box("", 5, 9, 9)), ERROR, GONE),
    Fault("unreadable coordinate", xml(""), ERROR, GONE),
    Fault("unreadable coordinate", xml("<polygon><x1>5</x1></polygon>"), ERROR, GONE),
    Fault("unreadable flag", xml(box(5, 5, 9, 9), flag="maybe"), ERROR, REGION),
    Fault("unknown class", xml(box(5, 5, 9, 9), name="dogg"), ERROR, REGION),
    Fault("object without class", xml(box(5, 5, 9, 9), name=" "), ERROR, REGION),
    Fault(
        "second box of an object",
        xml(box(5, 5, 9, 9) + box(15, 5, 19, 9)),
        [*DOG, ("dog", [14, 4, 19, 9])],
    ),
    Fault(
        "object without box",
        xml("<polygon><x1>5</x1><y1>5</y1><x2>9</x2><y2>6</y2><x10>7</x10><y10>9</y10></polygon>"),
        DOG,
    ),
    Fault(
        "object without box",
        xml(
            "<polygon><pt><x>5</x><y>6</y></pt><pt><x>9</x><y>5</y></pt><pt><x>6</x><y>9</y></pt></polygon>"
        ),
        DOG,
    ),
    Fault(
        "object without box",
        xml("<robndbox><cx>7</cx><cy>7</cy><w>4</w><h>4</h><angle>0</angle></robndbox>"),
        DOG,
    ),
    Fault(
        "object without box", xml('<mask rle="1, 2" left="5" top="5" width="4" height="4"/>'), DOG
    ),
]


def entry(**changes: object) -> dict[str, object]:
    sound = {"id": 44, "image_id": 7, "category_id": 5, "bbox": [4, 4, 5, 5]}
    return {key: value for key, value in {**sound, **changes}.items() if value is not ...}


POLYGON = [[4, 4, 9, 4, 6, 9]]
RUNS = {"size": [40, 60], "counts": [164, 5, 35, 5, 35, 5, 35, 5, 35, 5, 2071]}
TEXT = {"size": [40, 60], "counts": "T55S10000000do1"}

COCO_OBJECTS = [
    Fault("box over the border", entry(bbox=[4, 4, 80, 5]), [("dog", [4, 4, 60, 9])]),
    Fault("box outside the image", entry(bbox=[70, 4, 8, 5]), []),
    Fault("box without area", entry(bbox=[4, 4, 0, 5]), []),
    Fault("inverted box", entry(bbox=[9, 4, -5, 5]), ERROR, REGION),
    Fault("wrapped-around coordinate", entry(bbox=[65535, 4, 5, 5]), ERROR, GONE),
    Fault("coordinate that is no finite number", entry(bbox=[float("nan"), 4, 5, 5]), ERROR, GONE),
    Fault("unreadable coordinate", entry(bbox=[4, 4, 5]), ERROR, GONE),
    Fault("unreadable coordinate", entry(bbox=[4, 4, 5, "left"]), ERROR, GONE),
    Fault("unreadable coordinate", entry(bbox="4445"), ERROR, GONE),
    Fault("unreadable coordinate", entry(bbox=...), ERROR, GONE),
    Fault("unreadable coordinate", entry(bbox=..., segmentation=[["a"]]), ERROR, GONE),
    Fault(
        "unreadable coordinate",
        entry(bbox=..., segmentation={**RUNS, "size": [60, 40]}),
        ERROR,
        GONE,
    ),
    Fault("object without box", entry(bbox=..., segmentation=POLYGON), DOG),
    Fault("object without box", entry(bbox=None, segmentation=RUNS), DOG),
    Fault("object without box", entry(bbox=[], segmentation=TEXT), DOG),
    Fault("object without box", entry(bbox=[0, 0, 0, 0], segmentation=POLYGON), DOG),
    Fault("unreadable flag", entry(iscrowd="maybe"), ERROR, REGION),
    Fault("unreadable flag", entry(ignore=[1]), ERROR, REGION),
    Fault("unreadable area", entry(area=-1), DOG),
    Fault("unreadable area", entry(area="large"), DOG),
    Fault("unknown class", entry(category_id=3), ERROR, REGION),
    Fault("unknown class", entry(category_id=[5]), ERROR, REGION),
    Fault("unknown class", entry(category_id=...), ERROR, REGION),
    Fault("annotation of no image", entry(image_id=99), []),
    Fault("annotation of no image", entry(image_id=[7]), []),
]


def check(
    open_as: Callable[[OnError], IndexedDataset], fault: Fault, where: str, sound: int
) -> None:
    """Compare what each policy makes of a fault with its row."""
    named = rf"{where}.*{fault.kind}"
    with pytest.raises(DataError, match=rf"^[^\n]*{named}[^\n]*data\.on_error=(repair|skip)"):
        open_as("raise")
    for policy, expected in (
        ("repair", fault.repair),
        ("skip", fault.repair if fault.skip is None else fault.skip),
    ):
        if expected == ERROR:
            with pytest.raises(DataError, match=rf"^[^\n]*{named}[^\n]*data\.on_error=skip"):
                open_as("repair")
            continue
        with pytest.warns(DataWarning, match=fault.kind) as caught:
            dataset = open_as(policy)  # type: ignore[arg-type]
        assert len(caught) == 1
        assert dataset.problems.counts.total() == 1
        (row,) = dataset.problems.summary()
        assert re.search(where, row["cases"][0]["where"])
        assert row["outcome"] == ("left out" if fault.repair == ERROR else "repaired")
        assert fault.repair == ERROR or MADE[fault.kind] in row["cases"][0]["made"]
        if expected == GONE:
            assert len(dataset) == 1
            continue
        assert len(dataset) == 2
        assert len(dataset.ground_truth(1)) == 1
        truth = dataset.ground_truth(0)
        names = [dataset.class_names[k - 1] if k else "ignored" for k in truth.labels.tolist()]
        found = list(zip(names, truth.boxes.tolist(), strict=True))
        assert found[sound:] == list(expected)
        assert truth.crowd.tolist() == [name == "ignored" for name in names]


@pytest.mark.parametrize("fault", VOC_OBJECTS, ids=lambda fault: fault.kind)
def test_objects_in_voc_files(write_voc: Callable[..., Path], fault: Fault) -> None:
    sound = xml(box(1, 1, 9, 9))
    root = write_voc("a", sound + fault.written)
    write_voc("b", sound)
    (root / "classes.txt").write_text("dog\ncat\n")
    check(lambda policy: VOCDataset(root, "train", None, policy), fault, r"a\.xml, object 2", 1)


@pytest.mark.parametrize("fault", COCO_OBJECTS, ids=lambda fault: fault.kind)
def test_objects_in_coco_files(write_coco: Callable[..., Path], fault: Fault) -> None:
    images = [
        {"id": number, "file_name": "seven.jpg", "height": 40, "width": 60} for number in (7, 8)
    ]
    sound = [entry(id=1), fault.written, entry(id=2, image_id=8)]
    file = write_coco(sound, images)
    folder = file.parent / "images"
    check(lambda policy: COCODataset(file, folder, policy), fault, "annotation 44", 1)


def cut(root: Path) -> None:
    file = root / "JPEGImages" / "a.jpg"
    file.write_bytes(file.read_bytes()[:-50])


def picture(content: bytes | None) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        file = root / "JPEGImages" / "a.jpg"
        file.unlink() if content is None else file.write_bytes(content)

    return spoil


def annotation(text: str | bytes | None) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        file = root / "Annotations" / "a.xml"
        if text is None:
            file.unlink()
        else:
            file.write_bytes(text if isinstance(text, bytes) else text.encode())

    return spoil


def listing(root: Path) -> None:
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\na\n")


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<annotation><object><name>&b;</name></object></annotation>"
)
SOUND = xml(box(1, 1, 9, 9))
FOUND: list[Object] = [("dog", [0, 0, 9, 9])]

VOC_IMAGES = [
    Fault("missing image", picture(None), ERROR, GONE, r"a\.xml"),
    Fault("unreadable image", picture(b"no picture"), ERROR, GONE, r"a\.jpg"),
    Fault("unreadable image", picture(b""), ERROR, GONE, r"a\.jpg"),
    Fault("unreadable image", cut, ERROR, GONE, r"a\.jpg"),
    Fault("missing annotation", annotation(None), ERROR, GONE, r"a\.xml"),
    Fault("unreadable annotation", annotation("<annotation>\n<object>"), ERROR, GONE, r"a\.xml"),
    Fault("unreadable annotation", annotation(""), ERROR, GONE, r"a\.xml"),
    Fault("unreadable annotation", annotation("<html><p>gone</p></html>"), ERROR, GONE, r"a\.xml"),
    Fault("unreadable annotation", annotation(BOMB), ERROR, GONE, r"a\.xml"),
    Fault(
        "wrong image size",
        annotation(f"<annotation>{SIZE.format(640, 480)}{SOUND}</annotation>"),
        ERROR,
        GONE,
        r"a\.xml",
    ),
    Fault(
        "unusable image size",
        annotation(f"<annotation>{SIZE.format('wide', 40)}{SOUND}</annotation>"),
        FOUND,
        where=r"a\.xml",
    ),
    Fault(
        "unusable image size",
        annotation(f"<annotation>{SIZE.format(0, 0)}{SOUND}</annotation>"),
        FOUND,
        where=r"a\.xml",
    ),
    Fault(
        "wrong encoding",
        annotation(f'<?xml version="1.0" encoding="utf-16"?><annotation>{SOUND}</annotation>'),
        FOUND,
        where=r"a\.xml",
    ),
    Fault(
        "wrong encoding",  # labelImg writes paths in the encoding of the system
        annotation(f"<annotation><path>C:/größe</path>{SOUND}</annotation>".encode("cp1252")),
        FOUND,
        where=r"a\.xml",
    ),
    Fault("image listed twice", listing, FOUND, where=r"train\.txt, line 3"),
]


@pytest.mark.parametrize("fault", VOC_IMAGES, ids=lambda fault: fault.kind)
def test_images_in_voc_files(write_voc: Callable[..., Path], fault: Fault) -> None:
    root = write_voc("a", SOUND)
    write_voc("b", SOUND)
    fault.written(root)
    check(lambda policy: VOCDataset(root, "train", ["dog"], policy), fault, fault.where, 0)


def image(**changes: object) -> dict[str, object]:
    sound = {"id": 7, "file_name": "seven.jpg", "height": 40, "width": 60}
    return {key: value for key, value in {**sound, **changes}.items() if value is not ...}


COCO_IMAGES = [
    Fault("missing image", image(file_name="eight.jpg"), ERROR, GONE, r"image 7 \(eight\.jpg\)"),
    Fault("wrong image size", image(height=41), ERROR, GONE, r"image 7 \(seven\.jpg\)"),
    Fault("incomplete image entry", image(file_name=...), ERROR, GONE),
    Fault("unusable image size", image(height=0), DOG, where="image 7"),
    Fault("unusable image size", image(height="high"), DOG, where="image 7"),
    Fault("unusable image size", image(width=60.5), DOG, where="image 7"),
    Fault("image file under another name", image(file_name="x\\seven.jpg"), DOG, where="image 7"),
    Fault("image file under another name", image(file_name="seve%6E.jpg"), DOG, where="image 7"),
    Fault("image listed twice", [image(), image()], DOG, where="image 7"),
    Fault("one id for two images", [image(), image(file_name="six.jpg")], ERROR, GONE, "image 7"),
    Fault("unreadable entry", [image(), "seven.jpg"], ERROR, DOG, "image number 2"),
]


@pytest.mark.parametrize("fault", COCO_IMAGES, ids=lambda fault: fault.kind)
def test_images_in_coco_files(write_coco: Callable[..., Path], fault: Fault) -> None:
    spoilt = fault.written if isinstance(fault.written, list) else [fault.written]
    sound = [entry(id=1), entry(id=2, image_id=8)]
    if fault.kind == "incomplete image entry":
        sound = sound[1:]
    file = write_coco(sound, [*spoilt, image(id=8)])
    folder = file.parent / "images"
    check(lambda policy: COCODataset(file, folder, policy), fault, fault.where, 0)


def markdown() -> str:
    """Return a row for each kind: its layouts, and what ``repair`` and ``skip`` make of it."""
    layouts: dict[tuple[str, str, str], list[str]] = {}
    for layout, faults in (
        ("VOC", [*VOC_OBJECTS, *VOC_IMAGES]),
        ("COCO", [*COCO_OBJECTS, *COCO_IMAGES]),
    ):
        for fault in faults:
            repaired = MADE.get(fault.kind, ERROR).replace("seven.jpg", "the file that is there")
            repaired = repaired.replace("around its", "around its outline")
            skipped = repaired if fault.skip is None else "its image is left out"
            if isinstance(fault.skip, list) and fault.kind != "unreadable entry":
                skipped = "an ignored region"
            named = layouts.setdefault((fault.kind, repaired, skipped), [])
            named += [layout] * (layout not in named)
    rows = [
        f"| {kind} | {', '.join(named)} | {repaired} | {skipped} |"
        for (kind, repaired, skipped), named in sorted(layouts.items())
    ]
    return "\n".join(["| fault | layout | `repair` | `skip` |", "|---|---|---|---|", *rows])


def test_documentation_has_a_row_for_every_kind() -> None:
    rows = markdown().splitlines()[2:]
    faults = [*VOC_OBJECTS, *VOC_IMAGES, *COCO_OBJECTS, *COCO_IMAGES]
    assert {row.split(" | ")[0].removeprefix("| ") for row in rows} == {f.kind for f in faults}
    assert "| inverted box | VOC, COCO | error | an ignored region |" in rows
    assert "| box without area | VOC, COCO | left out | left out |" in rows


if __name__ == "__main__":
    print(markdown())  # noqa: T201
