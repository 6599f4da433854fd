"""Selective search finds what stands out, and always in the same order."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from rcnn.data import DataError, DataWarning, Sample, ShapesDataset, VOCDataset
from rcnn.data.errors import OnError
from rcnn.data.proposals import ProposedDataset, StoredProposals
from rcnn.data.selective_search import (
    SelectiveSearchSettings,
    propose_by_search,
    selective_search,
)
from rcnn.ops.boxes import iou
from rcnn.settings import SettingsError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

SETTINGS = SelectiveSearchSettings(width=100, min_size=8, limit=20)
RECTANGLES = torch.tensor(
    [[20.0, 30, 120, 90], [150, 20, 190, 130], [60, 110, 100, 140]]
)  # of 200 x 150 pixels


@pytest.fixture
def picture() -> torch.Tensor:
    """Three rectangles, red, green and blue on grey, with a little noise."""
    noise = torch.randint(-8, 9, (3, 150, 200), generator=torch.Generator().manual_seed(0))
    image = torch.full((3, 150, 200), 128)
    for channel, (x1, y1, x2, y2) in enumerate(RECTANGLES.int().tolist()):
        image[:, y1:y2, x1:x2] = 30
        image[channel, y1:y2, x1:x2] = 220
    return (image + noise).to(torch.uint8)


def search(image: torch.Tensor, seed: int = 0, **changes: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return selective_search(image, SelectiveSearchSettings(**changes), generator)


@pytest.mark.parametrize("mode", ["fast", "quality"])
@pytest.mark.parametrize("width", [200, 300])
def test_drawn_rectangles_are_covered(picture: torch.Tensor, mode: str, width: int) -> None:
    boxes = search(picture, mode=mode, width=width)
    assert (iou(RECTANGLES, boxes).amax(1) >= 0.7).all()


def test_boxes_lie_in_the_image_and_are_not_too_small(picture: torch.Tensor) -> None:
    boxes = search(picture, width=300, min_size=30)
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([200.0, 150, 200, 150])).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides >= 30 * 200 / 300 - 1e-3).all()
    assert len(search(picture, width=300, min_size=1)) > len(boxes)


@pytest.mark.parametrize("mode", ["Fast", "Quality"])
def test_boxes_are_those_of_opencv_for_blue_green_red(picture: torch.Tensor, mode: str) -> None:
    search_itself = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search_itself.setBaseImage(cv2.cvtColor(picture.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR))
    getattr(search_itself, f"switchToSelectiveSearch{mode}")()
    expected = {(x, y, x + w, y + h) for x, y, w, h in np.asarray(search_itself.process()).tolist()}
    found = search(picture, width=200, mode=mode.lower(), min_size=1, limit=None)
    assert len(found) == len(expected)
    assert {tuple(box) for box in found.tolist()} == expected


def test_tall_image_is_searched_at_a_smaller_width() -> None:
    # At 500 pixels of width this one would be 5000 pixels high, and take minutes.
    image = torch.zeros(3, 300, 30, dtype=torch.uint8)
    image[:, 100:200] = 255
    boxes = search(image)
    assert iou(torch.tensor([[0.0, 100, 30, 200]]), boxes).max() > 0.9


def test_same_generator_gives_the_same_boxes_every_time(picture: torch.Tensor) -> None:
    first = search(picture, width=200)
    torch.testing.assert_close(search(picture, width=200), first, rtol=0, atol=0)
    torch.testing.assert_close(search(picture, width=200, limit=5), first[:5])
    other = search(picture, seed=1, width=200)
    assert len(first) > 5
    assert not torch.equal(other, first)
    assert sorted(other.tolist()) == sorted(first.tolist())


def test_large_boxes_tend_to_come_first(picture: torch.Tensor) -> None:
    # The n-th largest of P comes at n times a number from 0..1, so the largest of all is early,
    # and the smaller half makes up less than half of the first half.
    halves = []
    for seed in range(8):
        boxes = search(picture, seed, width=200, limit=None)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        half = len(boxes) // 2
        halves.append((areas[:half] >= areas.median()).float().mean())
    assert 0.55 < torch.stack(halves).mean() < 1


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_image_is_no_failure(size: tuple[int, int]) -> None:
    boxes = search(torch.full((3, *size), 7, dtype=torch.uint8), width=60, min_size=1)
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0, size[1], size[0]]]))


def test_nothing_large_enough_is_no_box() -> None:
    assert search(torch.zeros(3, 8, 40, dtype=torch.uint8), width=40).shape == (0, 4)


def test_missing_opencv_or_contributed_modules_are_named(
    picture: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'rcnn\[proposals\]'"):
        search(picture)
    plain = ModuleType("cv2")
    monkeypatch.setattr(plain, "__version__", "4.10.0", raising=False)
    monkeypatch.setitem(sys.modules, "cv2", plain)
    with pytest.raises(ImportError, match=r"OpenCV 4\.10\.0 lacks .* uninstall opencv-python"):
        search(picture)


@pytest.mark.parametrize(
    ("key", "value"), [("width", 0), ("min_size", 0), ("limit", 0), ("mode", "slow")]
)
def test_impossible_settings_are_named(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"{key}={value!r}"):
        SelectiveSearchSettings(**{key: value})


# A whole data set: the same bytes whoever searches, and however often it is interrupted.


class Interrupted(ShapesDataset):
    """Ctrl-C is pressed at the image number ``at``."""

    at = 2

    def __getitem__(self, index: int) -> Sample:
        if index == self.at:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.fixture
def shapes() -> ShapesDataset:
    return ShapesDataset(4, size=50)


@pytest.fixture
def broken_voc(write_voc: Callable[..., Path], tmp_path: Path) -> Callable[[OnError], VOCDataset]:
    """Images a, b and c; the file of b breaks after the data set was opened."""

    def make(on_error: OnError) -> VOCDataset:
        root = tmp_path / on_error
        for image_id in ("a", "b", "c"):
            write_voc(image_id, root=root)
        dataset = VOCDataset(root, "train", class_names=("dog",), on_error=on_error)
        (root / "JPEGImages" / "b.jpg").write_bytes(b"\xff\xd8 no picture any more")
        return dataset

    return make


def test_file_holds_the_boxes_of_each_image(tmp_path: Path, shapes: ShapesDataset) -> None:
    stored = StoredProposals(propose_by_search(shapes, tmp_path / "train.safetensors", SETTINGS))
    proposed = ProposedDataset(shapes, stored)
    every = dataclasses.replace(SETTINGS, limit=None)
    for index, image_id in enumerate(shapes.image_ids):
        boxes = proposed[index].proposals
        assert boxes is not None
        assert 1 <= len(boxes) <= 20
        # The same boxes as without a file, in an order of the image's own.
        alone = selective_search(shapes[index].image, every, torch.Generator())
        assert {tuple(box) for box in boxes.tolist()} <= {tuple(box) for box in alone.tolist()}
        ranks = torch.arange(1, len(boxes) + 1)
        torch.testing.assert_close(stored.scores(image_id), 1 / ranks, rtol=0, atol=0)
    for word in (cv2.__version__, "mode=fast", "width=100", "min_size=8", "limit=20"):
        assert word in stored.header.origin


@pytest.mark.parametrize("workers", [0, 2])
def test_number_of_workers_does_not_matter(
    tmp_path: Path, shapes: ShapesDataset, workers: int
) -> None:
    one = propose_by_search(shapes, tmp_path / "one", SETTINGS, workers=1)
    other = propose_by_search(shapes, tmp_path / "other", SETTINGS, workers=workers)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("at", [0, 2])
def test_interrupted_search_goes_on(tmp_path: Path, shapes: ShapesDataset, at: int) -> None:
    whole = propose_by_search(shapes, tmp_path / "whole", SETTINGS)
    path = tmp_path / "resumed"
    interrupted = Interrupted(4, size=50)
    interrupted.at = at
    with pytest.raises(KeyboardInterrupt):
        propose_by_search(interrupted, path, SETTINGS, workers=0)
    assert not path.exists()
    searched: list[int] = []

    class Watched(ShapesDataset):
        def __getitem__(self, index: int) -> Sample:
            searched.append(index)
            return super().__getitem__(index)

    propose_by_search(Watched(4, size=50), path, SETTINGS, workers=0)
    assert searched == list(range(at, 4))
    assert path.read_bytes() == whole.read_bytes()


def test_other_settings_do_not_go_on(tmp_path: Path, shapes: ShapesDataset) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(KeyboardInterrupt):
        propose_by_search(Interrupted(4, size=50), path, SETTINGS, workers=0)
    with pytest.raises(DataError, match=r"x\.safetensors\.shards.*mode=fast.*mode=quality"):
        propose_by_search(shapes, path, dataclasses.replace(SETTINGS, mode="quality"))


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_file_is_an_error_of_one_line_or_gets_no_proposals(
    tmp_path: Path, broken_voc: Callable[[OnError], VOCDataset], workers: int
) -> None:
    with pytest.raises(DataError, match=r"^[^\n]*b\.jpg[^\n]*$"):
        propose_by_search(broken_voc("raise"), tmp_path / "raised", SETTINGS, workers=workers)
    with pytest.warns(DataWarning, match=r"b\.jpg.*gets no proposals"):
        path = propose_by_search(broken_voc("skip"), tmp_path / "x", SETTINGS, workers=workers)
    stored = StoredProposals(path)
    assert (stored.counts > 0).tolist() == [True, False, True]
    assert "b.jpg" in stored.failed["b"]


def test_threads_of_opencv_are_as_before(tmp_path: Path, shapes: ShapesDataset) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        propose_by_search(shapes, tmp_path / "x", SETTINGS, workers=1)
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_impossible_requests_are_named_before_anything_begins(
    tmp_path: Path, shapes: ShapesDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(DataError, match="there exists already"):
        propose_by_search(shapes, tmp_path / "there", SETTINGS)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"rcnn\[proposals\]"):
        propose_by_search(shapes, tmp_path / "x", SETTINGS)
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]
