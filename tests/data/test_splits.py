"""Sources of the splits of a run."""

from pathlib import Path

import pytest

from rcnn.data import (
    COCOSource,
    DataError,
    DataSource,
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


def test_blood_cells_have_three_splits(shared_data: Path) -> None:
    source = VOCSource(shared_data / "bccd", on_error="skip")
    with pytest.warns(UserWarning, match="box without area"):
        assert len(source.dataset("train")) == 205
    assert len(source.dataset("test")) == 72
    assert source.dataset("test").class_names == ("Platelets", "RBC", "WBC")
