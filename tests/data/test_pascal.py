"""PASCAL VOC by name, in the folders that torchvision makes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torchvision.datasets

from rcnn.data import PASCAL_CLASSES, DataError, pascal_voc

Write = Callable[..., Path]


@pytest.fixture
def devkit(tmp_path: Path, write_voc: Write, voc_object: Callable[..., str]) -> Path:
    """A small VOCdevkit: 2007 with trainval and test, 2012 with trainval."""
    cat = voc_object("cat", (1, 1, 9, 9))
    for year, image_id, split in (
        ("2007", "000005", "trainval"),
        ("2007", "000001", "test"),
        ("2012", "2008_000002", "trainval"),
    ):
        write_voc(image_id, cat, split=split, root=tmp_path / "VOCdevkit" / f"VOC{year}")
    return tmp_path


def test_there_are_twenty_classes_in_the_usual_order() -> None:
    assert len(PASCAL_CLASSES) == 20
    assert list(PASCAL_CLASSES) == sorted(PASCAL_CLASSES)


def test_one_year_has_its_own_images_and_all_classes(devkit: Path) -> None:
    dataset = pascal_voc("VOC2007", devkit)
    assert list(dataset.image_ids) == ["000005"]
    assert dataset.class_names == PASCAL_CLASSES
    assert PASCAL_CLASSES[dataset.ground_truth(0).labels[0] - 1] == "cat"


def test_the_two_years_together_keep_their_ids_apart(devkit: Path) -> None:
    dataset = pascal_voc("VOC0712", devkit)
    assert list(dataset.image_ids) == ["VOC2007/000005", "VOC2012/2008_000002"]
    assert dataset[1].image_id == "VOC2012/2008_000002"


def test_test_set_of_the_two_years_is_that_of_2007(devkit: Path) -> None:
    assert list(pascal_voc("VOC0712", devkit, "test").image_ids) == ["VOC2007/000001"]


def test_test_set_of_2012_is_said_to_be_secret(devkit: Path) -> None:
    with pytest.raises(DataError, match="VOC2012 test set are not public"):
        pascal_voc("VOC2012", devkit, "test")


def test_unknown_challenge_names_the_nearest(devkit: Path) -> None:
    with pytest.raises(DataError, match=r"'VOC2017', did you mean 'VOC20\d\d'\? Known are"):
        pascal_voc("VOC2017", devkit)


def test_missing_challenge_tells_of_the_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"VOCdevkit/VOC2007.*data\.download=true"):
        pascal_voc("VOC2007", tmp_path)


@pytest.mark.parametrize(("split", "fetched"), [("trainval", []), ("val", [("2012", "val")])])
def test_only_what_is_missing_is_downloaded(
    devkit: Path,
    write_voc: Write,
    monkeypatch: pytest.MonkeyPatch,
    split: str,
    fetched: list[tuple[str, str]],
) -> None:
    made = []

    def download(root: str, year: str, image_set: str, download: bool) -> None:
        assert root == str(devkit)
        assert download
        made.append((year, image_set))
        write_voc("x", split=image_set, root=devkit / "VOCdevkit" / f"VOC{year}")

    monkeypatch.setattr(torchvision.datasets, "VOCDetection", download)
    assert len(pascal_voc("VOC2012", devkit, split, download=True)) == 1
    assert made == fetched
