"""Sources of the splits of a run."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import (
    COCOSource,
    DataError,
    DataSource,
    DataWarning,
    DetectionDataset,
    FileSource,
    PascalSource,
    ShapesSource,
    TrainingSource,
    VOCSource,
)
from rcnn.data.splits import SPLITS


def test_every_source_keeps_the_protocol(tmp_path: Path) -> None:
    shapes = ShapesSource()
    sources = (shapes, VOCSource(tmp_path), PascalSource(tmp_path), COCOSource(tmp_path))
    assert all(isinstance(one, DataSource) for one in (*sources, TrainingSource(shapes)))


def test_shapes_of_different_splits_differ_and_those_of_one_seed_agree() -> None:
    source, again = ShapesSource(2, 2, 2, size=32), ShapesSource(2, 2, 2, size=32)
    first = {split: source.dataset(split)[0].image for split in ("train", "val", "test")}
    assert not first["train"].equal(first["val"])
    assert not first["val"].equal(first["test"])
    assert first["test"].equal(again.dataset("test")[0].image)


def test_seeds_share_no_split() -> None:
    ids = [ShapesSource(1, 1, 1, seed=s).dataset("train").image_ids[0] for s in range(3)]
    ids += [ShapesSource(1, 1, 1, seed=s).dataset("test").image_ids[0] for s in range(3)]
    assert len(set(ids)) == 6


def test_shapes_may_be_of_one_class() -> None:
    dataset = ShapesSource(3, size=32, class_names=["triangle"]).dataset("train")
    assert dataset.class_names == ("triangle",)
    assert ShapesSource(3, size=32).dataset("train").class_names == ("circle", "square", "triangle")


@pytest.mark.parametrize("source", [VOCSource, PascalSource, COCOSource])
def test_a_missing_validation_split_is_known_and_asking_for_it_is_an_error(
    tmp_path: Path, source: type
) -> None:
    without = source(tmp_path, val=None)
    assert without.has("train")
    assert not without.has("val")
    with pytest.raises(DataError, match=r"data\.val is null"):
        without.dataset("val")


def test_the_test_split_of_coco_is_its_validation_split_unless_given(tmp_path: Path) -> None:
    source = COCOSource(tmp_path, val="val.json", val_images="images")
    with pytest.raises(DataError, match=r"val\.json"):
        source.dataset("test")
    other = COCOSource(tmp_path, val=None, test="test.json", test_images="images")
    with pytest.raises(DataError, match=r"test\.json"):
        other.dataset("test")
    assert not COCOSource(tmp_path, val=None).has("test")


def test_training_source_has_no_other_split() -> None:
    source = TrainingSource(ShapesSource(2, 2, 2, size=32))
    assert [source.has(split) for split in SPLITS] == [True, False, False]
    assert len(source.dataset("train")) == 2


# --- classes by name ----------------------------------------------------------------------------


@pytest.fixture
def write_splits(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., COCOSource]:
    """Write COCO files whose tables of categories are given, with one object of each."""

    def write(**tables: dict[int, str]) -> COCOSource:
        write_image(tmp_path / "images" / "a.jpg")
        for split, names in tables.items():
            entries = [
                {"id": key, "image_id": 7, "category_id": key, "bbox": [key, 1, 9, 9]}
                for key in names
            ]
            content = {
                "images": [{"id": 7, "file_name": "a.jpg", "height": 40, "width": 60}],
                "annotations": entries,
                "categories": [{"id": key, "name": name} for key, name in names.items()],
            }
            (tmp_path / f"{split}.json").write_text(json.dumps(content))
        files: dict[str, Any] = {split: f"{split}.json" for split in SPLITS if split in tables}
        folders = {f"{split}_images": "images" for split in SPLITS}
        return COCOSource(tmp_path, **{"val": None, **files, **folders})

    return write


def labels(dataset: DetectionDataset) -> list[tuple[int, float]]:
    """Label and left side of each object."""
    truth = dataset.ground_truth(0)
    return list(zip(truth.labels.tolist(), truth.boxes[:, 0].tolist(), strict=True))


@pytest.mark.parametrize("opens_training", [True, False])
def test_splits_are_matched_by_the_names_of_their_classes(
    write_splits: Callable[..., COCOSource], opens_training: bool
) -> None:
    source = write_splits(train={1: "cat", 2: "dog"}, val={4: "dog", 9: "cat"})
    if opens_training:
        assert labels(source.dataset("train")) == [(1, 1), (2, 2)]
    val = source.dataset("val")
    assert val.class_names == ("cat", "dog")
    assert labels(val) == [(2, 4), (1, 9)]


def test_class_unknown_to_training_is_named_and_its_objects_are_ignored(
    write_splits: Callable[..., COCOSource],
) -> None:
    source = write_splits(train={1: "cat", 2: "dog"}, val={1: "cat", 3: "cow"})
    with pytest.warns(DataWarning) as caught:
        val = source.dataset("val")
    assert val.class_names == ("cat", "dog")
    assert labels(val) == [(1, 1), (0, 3)]
    assert val.ground_truth(0).crowd.tolist() == [False, True]
    found = {row["kind"]: row["cases"][0]["found"] for row in val.problems.summary()}
    assert found.pop("class not trained").startswith("'cow'")
    assert found == {
        "class that only the training split has": "dog",
        "class that only this split has": "cow",
    }
    assert len(caught) == 1


def test_class_without_training_objects_is_named_when_another_split_has_some(
    write_voc: Callable[..., Path], voc_object: Callable[..., str]
) -> None:
    write_voc("a", voc_object("dog", (1, 1, 9, 9)))
    root = write_voc("b", voc_object("cat", (1, 1, 9, 9)), split="val")
    source = VOCSource(root, on_error="raise")
    assert source.dataset("train").class_names == ("cat", "dog")
    with pytest.warns(DataWarning, match=r"val split has objects of cat, .* training split"):
        source.dataset("val")


@pytest.mark.parametrize("layout", ["voc", "coco", "pascal"])
@pytest.mark.filterwarnings("ignore::rcnn.data.DataWarning")
def test_chosen_classes_count_in_every_layout_and_split(
    write_voc: Callable[..., Path],
    voc_object: Callable[..., str],
    write_splits: Callable[..., COCOSource],
    tmp_path: Path,
    layout: str,
) -> None:
    objects = voc_object("cat", (2, 2, 9, 9)) + voc_object("dog", (3, 2, 9, 9))
    source: FileSource
    if layout == "coco":
        source = write_splits(train={1: "cat", 2: "dog"}, val={2: "cat", 1: "dog", 3: "cow"})
    else:
        root = tmp_path / ("voc" if layout == "voc" else "VOCdevkit/VOC2007")
        write_voc("a", objects, root=root)
        write_voc("b", objects, root=root, split="val")
        source = VOCSource(root) if layout == "voc" else PascalSource(tmp_path)
    chosen = dataclasses.replace(source, class_names=["dog"])
    for split in ("train", "val"):
        dataset = chosen.dataset(split)
        assert dataset.class_names == ("dog",)
        assert [label for label, _ in labels(dataset)] == [1]


def test_split_without_annotations_may_be_tested_and_not_trained_on(
    write_splits: Callable[..., COCOSource], tmp_path: Path
) -> None:
    source = write_splits(train={1: "cat"}, test={1: "cat"})
    for split in ("train", "test"):
        content = json.loads((tmp_path / f"{split}.json").read_text())
        del content["annotations"]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    with pytest.warns(DataWarning, match="prediction"):
        assert len(source.dataset("test")) == 1
    with (
        pytest.warns(DataWarning, match="prediction"),
        pytest.raises(DataError, match=r"train\.json has no annotations.*data\.train"),
    ):
        source.dataset("train")


def test_largest_picture_is_a_setting_of_the_source(
    write_voc: Callable[..., Path],
) -> None:
    source = VOCSource(write_voc("a"), max_pixels=2399)
    with pytest.raises(DataError, match=r"60 x 40 pixels.*data\.max_pixels=2399"):
        source.dataset("train")
    dataset = dataclasses.replace(source, max_pixels=2400, class_names=["dog"]).dataset("train")
    assert dataset[0].image.shape == (3, 40, 60)


@pytest.mark.filterwarnings("ignore::rcnn.data.DataWarning")
def test_blood_cells_have_three_splits(shared_data: Path) -> None:
    source = VOCSource(shared_data / "bccd")
    assert [len(source.dataset(split)) for split in SPLITS] == [205, 87, 72]
    assert source.dataset("test").class_names == ("Platelets", "RBC", "WBC")


def test_photographs_of_coco_have_one_table_of_classes(shared_data: Path) -> None:
    source = COCOSource(
        shared_data / "coco_mini",
        "annotations/instances_train.json",
        "train",
        "annotations/instances_val.json",
        "val",
        on_error="raise",
    )
    assert source.dataset("train").class_names == source.dataset("val").class_names
