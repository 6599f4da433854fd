"""Selective search over a data set: the same bytes whoever searches, and however often it stops."""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch

from rcnn.data import DataError, DataWarning, Sample, ShapesDataset, VOCDataset
from rcnn.data.selective_search import SelectiveSearchSettings, selective_search
from rcnn.data.stored import StoredProposals, attach, propose_by_search
from rcnn.settings import SettingsError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

SETTINGS = SelectiveSearchSettings(width=100, min_size=8, limit=20)


class Interrupted(ShapesDataset):
    """Somebody presses Ctrl-C at the image number ``at``."""

    at = 2

    def __getitem__(self, index: int) -> Sample:
        if index == self.at:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.fixture
def shapes() -> ShapesDataset:
    return ShapesDataset(4, size=50)


@pytest.fixture
def broken_voc(write_voc: Callable[..., Path]) -> Callable[[str], VOCDataset]:
    """Images a, b and c; the file of b breaks after the data set was opened."""

    def make(on_error: str) -> VOCDataset:
        for image_id in ("a", "b", "c"):
            root = write_voc(image_id)
        dataset = VOCDataset(root, "train", class_names=("dog",), on_error=on_error)
        (root / "JPEGImages" / "b.jpg").write_bytes(b"\xff\xd8 no picture any more")
        return dataset

    return make


def test_file_holds_the_boxes_of_each_image(tmp_path: Path, shapes: ShapesDataset) -> None:
    path = propose_by_search(shapes, tmp_path / "train.proposals", SETTINGS)
    stored = StoredProposals(path)
    proposed = attach(shapes, stored)
    for index, image_id in enumerate(shapes.image_ids):
        boxes = proposed[index].proposals
        assert boxes is not None
        assert 1 <= len(boxes) <= 20
        # The same boxes as without a file, in an order of the image's own.
        alone = selective_search(
            shapes[index].image,
            SelectiveSearchSettings(width=100, min_size=8, limit=None),
            torch.Generator(),
        )
        assert {tuple(box) for box in boxes.tolist()} <= {tuple(box) for box in alone.tolist()}
        torch.testing.assert_close(
            stored.scores(image_id), 1 / torch.arange(1, len(boxes) + 1), rtol=0, atol=0
        )
    for word in ("fast", cv2.__version__, "100 pixels", "8 pixels", "20 boxes"):
        assert word in stored.source


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
    path = tmp_path / "x.proposals"
    with pytest.raises(KeyboardInterrupt):
        propose_by_search(Interrupted(4, size=50), path, SETTINGS, workers=0)
    other = SelectiveSearchSettings("quality", width=100, min_size=8, limit=20)
    with pytest.raises(DataError, match="begun for other proposals"):
        propose_by_search(shapes, path, other)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_file_is_told_without_a_traceback(
    tmp_path: Path, broken_voc: Callable[[str], VOCDataset], workers: int
) -> None:
    with pytest.raises(DataError, match=r"^[^\n]*b\.jpg[^\n]*$"):
        propose_by_search(broken_voc("raise"), tmp_path / "x", SETTINGS, workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_file_gets_no_proposals_if_such_are_skipped(
    tmp_path: Path, broken_voc: Callable[[str], VOCDataset], workers: int
) -> None:
    dataset = broken_voc("skip")
    with pytest.warns(DataWarning, match=r"b\.jpg.*gets no proposals"):
        path = propose_by_search(dataset, tmp_path / "x", SETTINGS, workers=workers)
    counts = [len(StoredProposals(path).boxes(image_id)) for image_id in ("a", "b", "c")]
    assert counts[1] == 0
    assert min(counts[0], counts[2]) > 0


def test_threads_of_opencv_are_as_before(tmp_path: Path, shapes: ShapesDataset) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        propose_by_search(shapes, tmp_path / "x", SETTINGS, workers=1)
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_nothing_begins_without_opencv(
    tmp_path: Path, shapes: ShapesDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"rcnn\[proposals\]"):
        propose_by_search(shapes, tmp_path / "x", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_impossible_requests_are_named(tmp_path: Path, shapes: ShapesDataset) -> None:
    with pytest.raises(SettingsError, match="workers=-1"):
        propose_by_search(shapes, tmp_path / "x", SETTINGS, workers=-1)
    (tmp_path / "there").touch()
    with pytest.raises(DataError, match="exists already"):
        propose_by_search(shapes, tmp_path / "there", SETTINGS)
