"""What the benchmarks of loading and starting measure."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import loading, startup
from rcnn.data import COCODataset, VOCDataset


def arguments_of(part: object, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    part.add_arguments(parser)  # type: ignore[attr-defined]
    return parser.parse_args(words)


def test_a_row_for_each_number_of_workers() -> None:
    few = ["--pictures", "3", "--workers", "0", "--epochs", "1", "--coco-images", "0"]
    rows = loading.measure(arguments_of(loading, *few))
    loaded = [row for row in rows if row["what"] == "loading"]
    assert [row["workers"] for row in loaded] == [0]
    assert all(row["images/s"] > 0 for row in loaded)  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_decoders_read_the_same_pictures(tmp_path: Path) -> None:
    files = sorted((loading.draw(tmp_path / "voc", 2) / "JPEGImages").iterdir())
    rows = loading.decoding(files, 1)
    assert [row["by"] for row in rows if row["what"] == "decoding"] == [
        *("rcnn", "Pillow, decoding alone", "torchvision"),
        *("rcnn, resized", "torchvision, resized"),
    ]
    assert all(row["ms/image"] > 0 for row in rows)  # type: ignore[operator]
    ours, theirs = loading.read_image(files[0]), loading._decode_as_torchvision(files[0])
    assert (ours.int() - theirs.int()).abs().max() <= 2  # two versions of one library


def test_drawn_pictures_are_a_data_set(tmp_path: Path) -> None:
    dataset = VOCDataset(loading.draw(tmp_path / "voc", 3), "all")
    assert dataset.sizes.tolist() == [[480, 640]] * 3
    assert [len(dataset.ground_truth(place)) for place in range(3)] == [1, 1, 1]


def test_the_large_file_is_a_sound_data_set_of_the_numbers_asked_for(tmp_path: Path) -> None:
    file = loading.write_coco(tmp_path, 5, 30)
    dataset = COCODataset(file, tmp_path)
    assert (len(dataset), len(dataset.index.boxes)) == (5, 30)
    assert "segmentation" in json.loads(file.read_text())["annotations"][29]
    row = loading.opening(file)
    assert row["what"] == "opening 5 images, 30 objects"
    assert row["index MB"] < 0.1  # type: ignore[operator]


def test_a_command_is_timed_and_its_failure_told() -> None:
    seconds, own = startup.timed(["-c", ""])
    assert seconds > 0
    assert own >= 0
    with pytest.raises(startup.subprocess.CalledProcessError):
        startup.timed(["-c", "raise SystemExit(3)"])


@pytest.mark.slow
def test_the_first_step_of_a_run_is_told() -> None:
    words = ["data.train=2", "data.val=2", "data.test=2", "data.size=64", "loader.workers=0"]
    seconds, own = startup.first_step([*words, "images.shorter_side=64", "images.longer_side=64"])
    assert seconds > 0
    assert own > 0
