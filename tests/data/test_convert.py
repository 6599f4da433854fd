"""Round trips: what is written in a layout and read again is what was read at first."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rcnn.data.convert import WRITERS, convert
from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.data.layouts import AutoSource
from rcnn.data.shapes import ShapesDataset
from rcnn.data.voc import VOCDataset

pytestmark = pytest.mark.filterwarnings("ignore::rcnn.data.DataWarning")

SPLITS = {"train": 6, "val": 3, "test": 2}


def shapes() -> dict[str, DetectionDataset]:
    return {
        # Not in the order of the alphabet, which no layout may change.
        split: ShapesDataset(count, seed=seed, size=64, class_names=("triangle", "circle"))
        for seed, (split, count) in enumerate(SPLITS.items())
    }


def assert_same(read: DetectionDataset, written: DetectionDataset, flags: bool = True) -> None:
    assert read.class_names == written.class_names
    assert len(read) == len(written)
    for index in range(len(read)):
        found, expected = read.ground_truth(index), written.ground_truth(index)
        torch.testing.assert_close(found.boxes, expected.boxes, atol=0.01, rtol=0)
        assert torch.equal(found.labels, expected.labels)
        if flags:
            assert torch.equal(found.difficult, expected.difficult)
        assert torch.equal(read[index].image, written[index].image)


def reopened(out: Path, layout: str) -> Mapping[str, DetectionDataset]:
    source = AutoSource(out)
    assert source.layout.name == layout
    return {split: source.dataset(split) for split in ("train", "val", "test")}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_split_comes_back_with_its_pictures_and_boxes(tmp_path: Path, layout: str) -> None:
    splits = shapes()
    lost = convert(splits, layout, tmp_path / "out")
    assert not +lost
    for split, dataset in reopened(tmp_path / "out", layout).items():
        assert_same(dataset, splits[split])


def voc(root: Path, boxes: list[tuple[float, float, float, float]]) -> VOCDataset:
    (root / "Annotations").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    items = "".join(
        f"<object><name>café &amp; co</name><difficult>{n % 2}</difficult><bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for n, (x1, y1, x2, y2) in enumerate(boxes)
    )
    Image.fromarray(np.full((50, 70, 3), 9, dtype=np.uint8)).save(root / "JPEGImages" / "a.jpg")
    text = f"<annotation>{items}</annotation>"
    (root / "Annotations" / "a.xml").write_text(text, encoding="utf-8")
    return VOCDataset(root, "all")


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([*WRITERS]),
    st.lists(
        st.tuples(
            st.floats(1, 30), st.floats(1, 20), st.floats(31, 70, width=32), st.floats(21, 50)
        ),
        max_size=3,
    ),
)
def test_boxes_names_and_flags_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    layout: str,
    boxes: list[tuple[float, float, float, float]],
) -> None:
    root = tmp_path_factory.mktemp("trip")
    if not boxes:
        boxes = [(1.0, 1.0, 2.0, 2.0)]
    dataset = voc(root / "voc", boxes)
    lost = convert({"train": dataset}, layout, root / "out")
    source = AutoSource(root / "out", val=None, test=None)
    assert_same(source.dataset("train"), dataset, flags=layout != "yolo")
    assert lost["flag of a difficult object"] == (len(boxes) // 2 if layout == "yolo" else 0)


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        convert(shapes(), "coco", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_picture_that_counts_turned_is_written_upright(tmp_path: Path) -> None:
    dataset = voc(tmp_path / "voc", [(1, 1, 40, 60)])
    exif = Image.Exif()
    exif[0x0112] = 6
    side = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 50, 3), dtype=np.uint8))
    side.save(tmp_path / "voc/JPEGImages/a.jpg", exif=exif)
    dataset = VOCDataset(tmp_path / "voc", "all")
    assert dataset.sizes[0].tolist() == [50, 70]
    convert({"train": dataset}, "yolo", tmp_path / "out")
    assert_same(AutoSource(tmp_path / "out", val=None, test=None).dataset("train"), dataset, False)
