"""The report on a whole data set."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from rcnn.data import COCODataset, DataWarning, VOCDataset, check

Write = Callable[..., Path]


def test_counts_and_sizes_are_those_of_the_annotations(
    write_voc: Write, voc_object: Callable[..., str]
) -> None:
    write_voc("a", voc_object("cat", (1, 1, 16, 4)) + voc_object("cat", (1, 1, 2, 32), 1))
    write_voc("b", voc_object("dog", (1, 1, 10, 10)))
    report = check(VOCDataset(write_voc("c"), "train", ["bird", "cat", "dog"]))
    assert report.images == 3
    assert report.images_without_objects == 1
    assert report.objects == {"bird": 0, "cat": 2, "dog": 1}
    assert (report.difficult, report.crowd) == (1, 0)
    assert report.box_sizes == pytest.approx((8, 8, 8, 10, 10))
    assert report.box_shapes == pytest.approx((0.25, 0.25, 1, 16, 16))
    assert list(report.objects_per_image) == [0, 0, 1, 2, 2]
    assert report.is_sound
    for words in ("3 images, 1 without objects", "cat         2", "0 images unreadable"):
        assert words in str(report)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_report_of_one_class(write_voc: Write, voc_object: Callable[..., str], count: int) -> None:
    objects = voc_object("dog", (1, 1, 4, 9)) * count
    report = check(VOCDataset(write_voc("a", objects), "train", ["dog"]))
    assert report.objects == {"dog": count}
    assert list(report.box_sizes) == ([6.0] * 5 if count else [])
    assert list(report.objects_per_image) == [count] * 5
    assert ("there are no boxes" in str(report)) == (count == 0)


def test_image_that_breaks_only_when_decoded_is_named(write_voc: Write, write_image: Write) -> None:
    write_voc("a")
    root = write_voc("b")
    picture = root / "JPEGImages" / "b.png"
    (root / "JPEGImages" / "b.jpg").unlink()
    content = bytearray(write_image(picture).read_bytes())
    content[len(content) // 2] ^= 0xFF
    picture.write_bytes(content)
    report = check(VOCDataset(root, "train", ["dog"]))
    assert not report.is_sound
    assert len(report.unreadable) == 1
    assert "b.png" in report.unreadable[0]
    assert "b.png" in str(report)


def test_what_the_reader_repaired_or_left_out_is_reported(
    write_voc: Write, voc_object: Callable[..., str]
) -> None:
    root = write_voc("a", voc_object("dog", (9, 9, 5, 9)) + voc_object("dog", (1, 1, 70, 9)))
    with pytest.warns(DataWarning):
        dataset = VOCDataset(root, "train", on_error="skip")
    report = check(dataset)
    assert not report.is_sound
    lines = str(report).splitlines()
    for outcome, number in (("inverted box (left out)", 1), ("box over the border (repaired)", 2)):
        line = lines.index(f"  1 x {outcome}")
        assert f"a.xml, object {number} (dog): xmin=" in lines[line + 1]


def test_real_data_have_the_documented_numbers(shared_data: Path) -> None:
    with warnings.catch_warnings(action="ignore", category=DataWarning):
        cells = check(VOCDataset(shared_data / "bccd", "test", on_error="skip"))
    assert cells.images == 72
    assert cells.is_sound
    folder = shared_data / "coco_mini"
    photographs = check(COCODataset(folder / "annotations/instances_val.json", folder / "val"))
    assert photographs.images == 206
    assert photographs.images_without_objects == 2
    assert photographs.crowd == 21
    assert len(photographs.objects) == 80
    assert photographs.is_sound
