"""A file of proposals appears whole or not at all, and a killed writer's work is not lost."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from rcnn.data import DataError, DataWarning, DetectionDataset, JoinedDataset, ShapesDataset
from rcnn.data.index import PackedStrings
from rcnn.data.proposal_writer import ProposalWriter, import_json, import_mat
from rcnn.data.proposals import ProposedDataset, StoredProposals, fingerprint, shard_folder
from rcnn.settings import SettingsError

Boxes = dict[str, Tensor]
Make = Callable[..., DetectionDataset]


@pytest.fixture(autouse=True)
def _shards_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcnn.data.proposal_writer.SHARD_IMAGES", 1)


def write(path: Path, dataset: DetectionDataset, boxes: Boxes, origin: str = "by hand") -> Path:
    with ProposalWriter(path, dataset, origin) as writer:
        for image_id in writer.missing():
            writer.add(image_id, boxes[image_id])
        return writer.finish()


def interrupt(path: Path, dataset: DetectionDataset, boxes: Boxes) -> None:
    """Add ``boxes`` and leave, without finishing."""
    with ProposalWriter(path, dataset, "by hand") as writer:
        for image_id, corners in boxes.items():
            writer.add(image_id, corners)


# Shards


@pytest.mark.parametrize("shard_images", [1, 2, 64])
@pytest.mark.parametrize("finished", [0, 1, 2, 3])
def test_resumed_file_equals_an_uninterrupted_one(
    tmp_path: Path,
    blank: DetectionDataset,
    boxes: Boxes,
    stored_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: int,
    shard_images: int,
) -> None:
    monkeypatch.setattr("rcnn.data.proposal_writer.SHARD_IMAGES", shard_images)
    path = tmp_path / "resumed.safetensors"
    interrupt(path, blank, dict(list(boxes.items())[:finished]))
    assert not path.exists()
    with ProposalWriter(path, blank, "by hand") as second:
        assert second.missing() == list(boxes)[finished:]
    assert write(path, blank, boxes) == path
    assert path.read_bytes() == stored_file.read_bytes()
    assert sorted(tmp_path.iterdir()) == [path, stored_file]


def test_killed_process_loses_only_the_shard_it_was_at(
    tmp_path: Path, blank: DetectionDataset, boxes: Boxes, stored_file: Path
) -> None:
    path = tmp_path / "resumed.safetensors"

    def victim() -> None:
        with ProposalWriter(path, blank, "by hand") as writer:
            writer.add("b", boxes["b"])
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=victim)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with ProposalWriter(path, blank, "by hand") as writer:
        assert writer.missing() == ["a", "c"]
    assert write(path, blank, boxes).read_bytes() == stored_file.read_bytes()


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda _: b""])
def test_damaged_shard_is_made_again(
    tmp_path: Path,
    blank: DetectionDataset,
    boxes: Boxes,
    stored_file: Path,
    damage: Callable[[bytes], bytes],
) -> None:
    path = tmp_path / "resumed.safetensors"
    interrupt(path, blank, {image_id: boxes[image_id] for image_id in ("a", "b")})
    shard = shard_folder(path) / "000000.safetensors"
    shard.write_bytes(damage(shard.read_bytes()))
    with (
        pytest.warns(DataWarning, match=r"000000\.safetensors"),
        ProposalWriter(path, blank, "by hand") as writer,
    ):
        assert writer.missing() == ["a", "c"]
    assert write(path, blank, boxes).read_bytes() == stored_file.read_bytes()


@pytest.mark.parametrize("change", ["origin", "data set"])
def test_shards_of_something_else_are_refused(
    tmp_path: Path, blank: DetectionDataset, make_blank: Make, boxes: Boxes, change: str
) -> None:
    path = tmp_path / "x.safetensors"
    interrupt(path, blank, {"a": boxes["a"]})
    other = blank if change == "origin" else make_blank({"a": (9, 9)})
    with pytest.raises(DataError, match=r"x\.safetensors\.shards.*by hand.*Delete"):
        ProposalWriter(path, other, "quality" if change == "origin" else "by hand")


def test_without_shards_nothing_is_left(
    tmp_path: Path, blank: DetectionDataset, boxes: Boxes
) -> None:
    with ProposalWriter(tmp_path / "x", blank, "quality", sharded=False) as writer:
        writer.add("a", boxes["a"])
    assert list(tmp_path.iterdir()) == []


def test_order_of_adding_and_of_the_data_set_do_not_matter(
    tmp_path: Path, make_blank: Make, boxes: Boxes, stored_file: Path
) -> None:
    dataset = make_blank({"c": (50, 20), "a": (30, 30), "b": (40, 60)})
    other = write(tmp_path / "other.safetensors", dataset, boxes)
    assert other.read_bytes() == stored_file.read_bytes()


def test_file_needs_every_image(tmp_path: Path, blank: DetectionDataset, boxes: Boxes) -> None:
    path = tmp_path / "x.safetensors"
    with ProposalWriter(path, blank, "by hand") as writer:
        writer.add("a", boxes["c"])
        with pytest.raises(DataError, match="2 of 3 images have no proposals yet: b, c"):
            writer.finish()
        assert not path.exists()


# What is added


side = st.lists(st.floats(0, 10, width=32), min_size=2, max_size=2, unique=True).map(sorted)
# Left and right, top and bottom.
box = st.tuples(side, side).map(lambda sides: tuple(s[end] for end in (0, 1) for s in sides))
rows = st.lists(st.tuples(box, st.floats(-1e6, 1e6, width=32)), max_size=4)


@settings(deadline=None, max_examples=15)
@given(images=st.dictionaries(st.text("ab/é😀￿", min_size=1, max_size=3), rows, min_size=1))
def test_round_trip_sorts_by_score(
    images: dict[str, list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset = ShapesDataset(len(images), size=16)
    dataset.image_ids = PackedStrings(images)
    path = tmp_path_factory.mktemp("round") / "x.safetensors"
    with ProposalWriter(path, dataset, "hypothesis") as writer:
        for image_id, entries in images.items():
            corners = torch.tensor([corners for corners, _ in entries]).float().reshape(-1, 4)
            writer.add(image_id, corners, torch.tensor([score for _, score in entries]).float())
        writer.finish()
    stored = StoredProposals(path)
    stored.check()
    assert stored.header.fingerprint == fingerprint(dataset)
    assert len(stored) == len(images)
    for image_id, entries in images.items():
        wanted = sorted(entries, key=lambda entry: -entry[1])
        assert stored.boxes(image_id).tolist() == [list(corners) for corners, _ in wanted]
        assert stored.scores(image_id).tolist() == [score for _, score in wanted]


def test_equal_scores_keep_their_order_and_the_border_clips(
    tmp_path: Path, make_blank: Make
) -> None:
    corners = torch.tensor([[0, 0, 1, 1], [0, 0, 2, 2], [-1, -0.5, 31, 20.001]])
    with ProposalWriter(tmp_path / "x", make_blank({"a": (20, 30)}), "by hand") as writer:
        writer.add("a", corners, torch.tensor([-5.0, 2.0, 2.0]))
        stored = StoredProposals(writer.finish())
    assert stored.boxes("a").tolist() == [[0, 0, 2, 2], [0, 0, 30, 20], [0, 0, 1, 1]]
    assert stored.scores("a").tolist() == [2, 2, -5]
    stored.check()


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "box",
    # The last but one leaves nothing inside the image.
    [
        [0, 0, NAN, 5],
        [0, 0, INFINITY, 5],
        [5, 0, 4, 5],
        [5, 0, 5, 5],
        [30, 0, 31, 5],
        [0, -2, 5, 5],
    ],
)
def test_unsound_box_is_refused(tmp_path: Path, make_blank: Make, box: list[float]) -> None:
    with ProposalWriter(tmp_path / "x", make_blank({"a": (20, 30)}), "by hand") as writer:
        with pytest.raises(DataError, match=r"x, image a, proposal 2 of 2: unsound box.*30 x 20"):
            writer.add("a", torch.tensor([[0.0, 0, 5, 5], box]))
        assert writer.missing() == ["a"]


def test_impossible_requests_are_refused(
    tmp_path: Path, blank: DetectionDataset, boxes: Boxes, stored_file: Path
) -> None:
    with pytest.raises(DataError, match=r"some\.safetensors exists already"):
        ProposalWriter(stored_file, blank, "by hand")
    with pytest.raises(SettingsError, match="origin"):
        ProposalWriter(tmp_path / "y", blank, " ")
    with ProposalWriter(tmp_path / "x", blank, "by hand") as writer:
        with pytest.raises(DataError, match="image a, proposal 1 of 1: unsound score"):
            writer.add("a", boxes["a"], torch.tensor([NAN]))
        writer.add("a", boxes["a"])
        with pytest.raises(DataError, match="image a: it has its proposals already"):
            writer.add("a", boxes["a"])
        with pytest.raises(DataError, match="image d: unknown image"):
            writer.add("d", boxes["a"])


def test_failed_image_is_kept_with_its_reason(
    tmp_path: Path, blank: DetectionDataset, boxes: Boxes
) -> None:
    path, error = tmp_path / "x.safetensors", DataError("c.jpg is cut off.")
    with ProposalWriter(path, blank, "by hand") as writer:
        with pytest.raises(DataError, match=r"c\.jpg is cut off"):
            writer.add_failed("c", error)
        blank.problems.on_error = "skip"
        with pytest.warns(DataWarning, match=r"c\.jpg is cut off"):
            writer.add_failed("c", error)
    stored = StoredProposals(write(path, blank, boxes))  # goes on after the failed image
    assert stored.failed == {"c": "c.jpg is cut off."}
    proposals = ProposedDataset(blank, stored)[2].proposals
    assert proposals is not None
    assert len(proposals) == 0


# Importers: (y1, x1, y2, x2), 1-based and inclusive.
MATRICES = {"a": [[3, 2, 4, 30]], "b": [[1, 1, 40, 60], [6, 11, 25, 20], [1, 1, 1, 1]], "c": []}


def write_mat(path: Path, matrices: Mapping[str, object], dtype: str = "float64") -> Path:
    """A file like the ones that Fast R-CNN's authors distribute."""
    io = pytest.importorskip("scipy.io")
    boxes = np.empty((1, len(matrices)), dtype=object)
    images = np.empty((len(matrices), 1), dtype=object)
    for index, (image_id, matrix) in enumerate(matrices.items()):
        table = np.array(matrix, dtype=dtype)
        boxes[0, index] = table if table.size else np.zeros((0, 0))
        images[index, 0] = image_id
    io.savemat(path, {"boxes": boxes, "images": images})
    return path


@pytest.mark.parametrize("dtype", ["float64", "uint16"])
def test_mat_boxes_become_continuous(tmp_path: Path, blank: DetectionDataset, dtype: str) -> None:
    out = tmp_path / "out.safetensors"
    assert import_mat(write_mat(tmp_path / "x.mat", MATRICES, dtype), blank, out) == out
    stored = StoredProposals(out)
    ProposedDataset(blank, stored)
    assert stored.header.origin == "selective search"
    assert stored.boxes("a").tolist() == [[1, 2, 30, 4]]
    assert stored.boxes("b").tolist() == [[0, 0, 60, 40], [10, 5, 20, 25], [0, 0, 1, 1]]
    assert stored.boxes("c").shape == (0, 4)
    assert_close(stored.scores("b"), torch.tensor([1, 1 / 2, 1 / 3]))


def test_joined_data_set_takes_a_mat_file_for_each_part(tmp_path: Path, make_blank: Make) -> None:
    dataset = JoinedDataset({year: make_blank({"a": (30, 30)}) for year in ("2007", "2012")})
    files = {
        year: write_mat(tmp_path / f"{year}.mat", {"a": [[1, 1, corner, 9]]})
        for year, corner in (("2007", 5), ("2012", 6))
    }
    stored = StoredProposals(import_mat(files, dataset, tmp_path / "out"))
    ProposedDataset(dataset, stored)
    assert stored.boxes("2007/a").tolist() == [[0, 0, 9, 5]]
    assert stored.boxes("2012/a").tolist() == [[0, 0, 9, 6]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d": []}, r"1 images with proposals are not in the data set: d\."),
        ({"a": None, "b": None}, r"x\.mat.*2 of the data set's 3 images .*: b, a"),
        ({"a": [[0, 0, 5, 5]]}, r"image a \(0-based.*unsound box: x1=-1 y1=-1"),
        ({"a": [[1, 1, 5, 31]]}, r"image a .*unsound box: x1=0 y1=0 x2=31"),
        ({"a": [[1, 1, 5]]}, r"image a: boxes of the wrong shape: 1 x 3"),
        ({"b": [[1, 1, 60, 40], [11, 6, 20, 25]]}, r"image b .*2 boxes .*exchange their columns"),
    ],
)
def test_unsound_mat_leaves_nothing_behind(
    tmp_path: Path, blank: DetectionDataset, changes: dict[str, Any], message: str
) -> None:
    matrices = {
        name: matrix for name, matrix in {**MATRICES, **changes}.items() if matrix is not None
    }
    file = write_mat(tmp_path / "x.mat", matrices)
    with pytest.raises(DataError, match=message):
        import_mat(file, blank, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]


def test_broken_mat_is_an_error(tmp_path: Path, blank: DetectionDataset) -> None:
    io = pytest.importorskip("scipy.io")
    content = write_mat(tmp_path / "x.mat", MATRICES).read_bytes()
    file = tmp_path / "y.mat"

    def refuse(message: str) -> None:
        with pytest.raises(DataError, match=rf"y\.mat.*{message}"):
            import_mat(file, blank, tmp_path / "out")

    refuse("cannot be read")
    for length in (0, 60, 130, len(content) // 2, len(content) - 9):
        file.write_bytes(content[:length])
        refuse("")
    file.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400))
    refuse("-v7")
    io.savemat(file, {"images": np.zeros(3)})
    refuse("'boxes'")
    io.savemat(file, {"images": np.zeros(3), "boxes": np.zeros((3, 4))})
    refuse("longer")
    cells = np.empty((1, 2), dtype=object)
    cells[0, :] = ["a", "a"]
    io.savemat(file, {"images": cells, "boxes": cells})
    refuse("image twice: a")


def test_missing_scipy_names_the_extra(
    tmp_path: Path, blank: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"rcnn\[proposals\]"):
        import_mat(tmp_path / "x.mat", blank, tmp_path / "out")


def entry(image_id: object, bbox: object = (1, 2, 3, 4), score: object = 0.5) -> dict[str, object]:
    return {"image_id": image_id, "bbox": bbox, "score": score, "category_id": 1}


def write_json(path: Path, entries: object) -> Path:
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def test_json_boxes_are_sorted_and_numbers_are_ids(tmp_path: Path, make_blank: Make) -> None:
    dataset = make_blank({"7": (40, 60), "x": (30, 30)})
    entries = [entry(7, score=0.25), entry("x"), entry(7, [0, 0, 60, 40], 1), entry(7, score=-1)]
    file = write_json(tmp_path / "rpn.json", entries)
    stored = StoredProposals(import_json(file, dataset, tmp_path / "out"))
    ProposedDataset(dataset, stored)
    assert stored.header.origin == "rpn.json"
    assert stored.boxes("7").tolist() == [[0, 0, 60, 40], [1, 2, 4, 6], [1, 2, 4, 6]]
    assert stored.scores("7").tolist() == [1, 0.25, -1]
    assert stored.boxes("x").tolist() == [[1, 2, 4, 6]]


def test_json_may_leave_out_images_if_asked_but_has_no_others(
    tmp_path: Path, blank: DetectionDataset, make_blank: Make
) -> None:
    file, out = write_json(tmp_path / "x.json", [entry("a")]), tmp_path / "out"
    with pytest.raises(DataError, match=r"2 of .*3 images .*: b, c.*absent_is_empty"):
        import_json(file, blank, out)
    stored = StoredProposals(import_json(file, blank, out, "an RPN", absent_is_empty=True))
    assert stored.header.origin == "an RPN"
    assert stored.counts.tolist() == [1, 0, 0]
    file = write_json(tmp_path / "x.json", [entry(7)])  # ids are matched letter by letter
    with pytest.raises(DataError, match="1 images with proposals are not in the data set: 7"):
        import_json(file, make_blank({"000007": (9, 9)}), tmp_path / "new", absent_is_empty=True)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[{", "JSON.*line 1"),
        ({}, "valid array"),
        ([1], "entry 1: .* entry=1"),
        ([entry("a"), entry(None)], "entry 2: .* image_id=None"),
        ([entry(True)], "entry 1: .* image_id=True"),
        ([entry("a", score="1")], "entry 1: .* score='1'"),
        ([entry("a", score=True)], "entry 1: .* score=True"),
        ([entry("a", bbox=[1, 2, 3])], r"entry 1: .* bbox=\[1, 2, 3\]"),
        ([entry("a", bbox=[40, 2, 20, 3])], "image a, proposal 1 of 1: unsound box"),
        ([entry("a", bbox=[20, 2, -2, 3])], "image a, proposal 1 of 1: unsound box"),
        ([entry("a", score=NAN)], "image a, proposal 1 of 1: unsound score"),
        ([entry("a", score=1e300)], "image a, proposal 1 of 1: unsound score"),
    ],
)
def test_unsound_json_leaves_nothing_behind(
    tmp_path: Path, blank: DetectionDataset, entries: object, message: str
) -> None:
    file = write_json(tmp_path / "x.json", entries)
    with pytest.raises(DataError, match=message):
        import_json(file, blank, tmp_path / "out", absent_is_empty=True)
    assert list(tmp_path.iterdir()) == [file]
