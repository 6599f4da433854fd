"""Pictures and annotation files for the benchmark of loading, and its rows."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import loading
from rcnn.data import COCODataset, VOCDataset
from rcnn.data.images import read_image


def test_each_number_of_workers_has_a_row() -> None:
    parser = argparse.ArgumentParser()
    loading.add_arguments(parser)
    words = ["--pictures", "3", "--workers", "0", "--epochs", "1", "--coco-images", "0"]
    rows = loading.measure(parser.parse_args(words))
    loaded = [row for row in rows if row["what"] == "loading"]
    assert [row["workers"] for row in loaded] == [0]
    assert all(float(row["images/s"]) > 0 for row in loaded)


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_decoders_read_the_same_pictures(tmp_path: Path) -> None:
    files = sorted((loading.draw(tmp_path / "voc", 2) / "JPEGImages").iterdir())
    rows = loading.time_decoders(files, 1)
    assert [row["by"] for row in rows] == [
        *("rcnn", "Pillow, decoding alone", "torchvision"),
        *("rcnn, resized", "torchvision, resized"),
    ]
    assert all(float(row["ms/image"]) > 0 for row in rows)
    ours, theirs = read_image(files[0]), loading.decode_by_torchvision(files[0])
    assert (ours.int() - theirs.int()).abs().max() <= 2  # two versions of one library


def test_drawn_pictures_are_a_data_set(tmp_path: Path) -> None:
    dataset = VOCDataset(loading.draw(tmp_path / "voc", 3), "all")
    assert dataset.sizes.tolist() == [[480, 640]] * 3
    assert [len(dataset.ground_truth(index)) for index in range(3)] == [1, 1, 1]


def test_the_large_file_is_a_sound_data_set_of_the_given_size(tmp_path: Path) -> None:
    file = loading.write_coco(tmp_path, 5, 30)
    dataset = COCODataset(file, tmp_path)
    assert (len(dataset), len(dataset.index.boxes)) == (5, 30)
    assert len(json.loads(file.read_text())["annotations"][29]["segmentation"][0]) == 48
    row = loading.time_opening(file)
    assert row["what"] == "opening 5 images, 30 objects"
    assert float(row["index MB"]) < 0.1
