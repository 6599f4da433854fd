"""Where the splits of a run come from."""

import json
from pathlib import Path

import pytest

from rcnn.data import COCOSource, DataError, DataSource, PascalSource, ShapesSource, VOCSource


def test_every_source_keeps_the_protocol(tmp_path: Path) -> None:
    sources = [
        ShapesSource(),
        VOCSource(tmp_path),
        PascalSource(tmp_path),
        COCOSource(tmp_path),
    ]
    assert all(isinstance(source, DataSource) for source in sources)


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


def test_a_missing_validation_split_is_known_and_asking_for_it_is_an_error(tmp_path: Path) -> None:
    source = VOCSource(tmp_path, val=None)
    assert source.has("train")
    assert not source.has("val")
    with pytest.raises(DataError, match=r"data\.val is null"):
        source.dataset("val")


def test_the_test_split_of_coco_is_its_validation_split_unless_given(tmp_path: Path) -> None:
    empty = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "val.json").write_text(json.dumps(empty))
    source = COCOSource(tmp_path, val="val.json", val_images="images")
    with pytest.raises(DataError, match=r"val\.json"):
        source.dataset("test")
    assert not COCOSource(tmp_path, val=None, val_images=None).has("test")


def test_blood_cells_have_three_splits(shared_data: Path) -> None:
    source = VOCSource(shared_data / "bccd", on_error="skip")
    with pytest.warns(UserWarning, match="box without area"):
        assert len(source.dataset("train")) == 205
    assert len(source.dataset("test")) == 72
    assert source.dataset("test").class_names == ("Platelets", "RBC", "WBC")
