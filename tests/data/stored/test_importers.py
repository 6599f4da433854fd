"""Proposals that other programs wrote."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from rcnn.data import DataError, DetectionDataset, JoinedDataset
from rcnn.data.stored import StoredProposals, attach, import_json, import_mat

# (y1, x1, y2, x2), 1-based and inclusive.
MATRICES = {"a": [[3, 2, 4, 30]], "b": [[1, 1, 40, 60], [6, 11, 25, 20], [1, 1, 1, 1]], "c": []}


def write_mat(path: Path, matrices: Mapping[str, object], dtype: str = "float64") -> Path:
    """A file like the ones that Fast R-CNN's authors distribute."""
    io = pytest.importorskip("scipy.io")
    boxes = np.empty((1, len(matrices)), dtype=object)
    images = np.empty((len(matrices), 1), dtype=object)
    for place, (image_id, matrix) in enumerate(matrices.items()):
        table = np.array(matrix, dtype=dtype)
        boxes[0, place] = table if table.size else np.zeros((0, 0))
        images[place, 0] = image_id
    io.savemat(path, {"boxes": boxes, "images": images})
    return path


@pytest.mark.parametrize("dtype", ["float64", "uint16"])
def test_mat_boxes_become_continuous(tmp_path: Path, dataset: DetectionDataset, dtype: str) -> None:
    out = tmp_path / "out.proposals"
    assert import_mat(write_mat(tmp_path / "x.mat", MATRICES, dtype), dataset, out) == out
    stored = StoredProposals(out)
    attach(dataset, stored)
    assert stored.source == "selective search"
    assert stored.boxes("a").tolist() == [[1, 2, 30, 4]]
    assert stored.boxes("b").tolist() == [[0, 0, 60, 40], [10, 5, 20, 25], [0, 0, 1, 1]]
    assert stored.boxes("c").shape == (0, 4)
    assert_close(stored.scores("b"), torch.tensor([1, 1 / 2, 1 / 3]))


def test_joined_data_set_takes_a_mat_file_for_each_part(
    tmp_path: Path, make_dataset: Callable[..., DetectionDataset]
) -> None:
    parts = {"2007": make_dataset({"a": (30, 30)}), "2012": make_dataset({"a": (30, 30)})}
    dataset = JoinedDataset(parts)
    files = {
        name: write_mat(tmp_path / f"{name}.mat", {"a": [[1, 1, corner, 9]]})
        for name, corner in (("2007", 5), ("2012", 6))
    }
    stored = StoredProposals(import_mat(files, dataset, tmp_path / "out"))
    attach(dataset, stored)
    assert stored.boxes("2007/a").tolist() == [[0, 0, 9, 5]]
    assert stored.boxes("2012/a").tolist() == [[0, 0, 9, 6]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d": []}, r"1 images with proposals are not in the data set: d\."),
        ({"a": [[0, 0, 5, 5]]}, r"image a \(0-based.*box outside the image: x1=-1 y1=-1"),
        ({"a": [[1, 1, 5, 31]]}, r"image a .*box outside the image: x1=0 y1=0 x2=31"),
        ({"a": [[1, 1, 5]]}, r"image a: boxes of the wrong shape: 1 x 3"),
        (
            {"b": [[1, 1, 60, 40], [11, 6, 20, 25]]},
            r"image b .*2 boxes lie inside with x and y exchanged.*"
            r"The file has them as \(x1, y1, x2, y2\).*exchange its columns",
        ),
    ],
)
def test_unsound_mat_leaves_nothing_behind(
    tmp_path: Path, dataset: DetectionDataset, changes: dict[str, list], message: str
) -> None:
    file = write_mat(tmp_path / "x.mat", {**MATRICES, **changes})
    with pytest.raises(DataError, match=message):
        import_mat(file, dataset, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]


def test_missing_images_of_a_mat_file_are_named(tmp_path: Path, dataset: DetectionDataset) -> None:
    file = write_mat(tmp_path / "x.mat", {"a": []})
    with pytest.raises(DataError, match=r"x\.mat.*2 of the data set's 3 images .*: b, c"):
        import_mat(file, dataset, tmp_path / "out")


def test_file_that_is_no_mat_is_told_apart(tmp_path: Path, dataset: DetectionDataset) -> None:
    io = pytest.importorskip("scipy.io")
    file = tmp_path / "x.mat"
    with pytest.raises(DataError, match=r"x\.mat cannot be read"):
        import_mat(file, dataset, tmp_path / "out")
    file.write_bytes(b"[]" * 200)
    with pytest.raises(DataError, match=r"x\.mat cannot be read"):
        import_mat(file, dataset, tmp_path / "out")
    file.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400))
    with pytest.raises(DataError, match="Save it with -v7"):
        import_mat(file, dataset, tmp_path / "out")
    io.savemat(file, {"images": np.zeros(3)})
    with pytest.raises(DataError, match="has no boxes"):
        import_mat(file, dataset, tmp_path / "out")
    io.savemat(file, {"images": np.zeros(3), "boxes": np.zeros((3, 4))})
    with pytest.raises(DataError, match="12 boxes of type float64, 3 images"):
        import_mat(file, dataset, tmp_path / "out")


def test_truncated_mat_is_an_error(tmp_path: Path, dataset: DetectionDataset) -> None:
    file = write_mat(tmp_path / "x.mat", MATRICES)
    content = file.read_bytes()
    for length in (0, 60, 130, len(content) // 2, len(content) - 9):
        file.write_bytes(content[:length])
        with pytest.raises(DataError):
            import_mat(file, dataset, tmp_path / "out")


def test_image_that_is_twice_in_a_mat_file_is_named(
    tmp_path: Path, dataset: DetectionDataset
) -> None:
    io = pytest.importorskip("scipy.io")
    cells = np.empty((1, 2), dtype=object)
    cells[0, :] = ["a", "a"]
    io.savemat(tmp_path / "x.mat", {"images": cells, "boxes": cells})
    with pytest.raises(DataError, match="image twice: a"):
        import_mat(tmp_path / "x.mat", dataset, tmp_path / "out")


def test_missing_scipy_names_the_extra(
    tmp_path: Path, dataset: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"rcnn\[proposals\]"):
        import_mat(tmp_path / "x.mat", dataset, tmp_path / "out")


def entry(image_id: object, bbox: object = (1, 2, 3, 4), score: object = 0.5) -> dict[str, object]:
    return {"image_id": image_id, "bbox": bbox, "score": score, "category_id": 1}


def write_json(path: Path, entries: object) -> Path:
    path.write_text(json.dumps(entries))
    return path


def test_json_boxes_are_sorted_and_numbers_are_ids(
    tmp_path: Path, make_dataset: Callable[..., DetectionDataset]
) -> None:
    dataset = make_dataset({"7": (40, 60), "x": (30, 30)})
    entries = [entry(7, score=0.25), entry("x"), entry(7, [0, 0, 60, 40], 1), entry(7, score=-1)]
    file = write_json(tmp_path / "rpn.json", entries)
    stored = StoredProposals(import_json(file, dataset, tmp_path / "out"))
    attach(dataset, stored)
    assert stored.source == "rpn.json"
    assert stored.boxes("7").tolist() == [[0, 0, 60, 40], [1, 2, 4, 6], [1, 2, 4, 6]]
    assert stored.scores("7").tolist() == [1, 0.25, -1]
    assert stored.boxes("x").tolist() == [[1, 2, 4, 6]]


def test_json_may_leave_out_images_if_that_is_said(
    tmp_path: Path, dataset: DetectionDataset
) -> None:
    file = write_json(tmp_path / "x.json", [entry("a")])
    with pytest.raises(
        DataError, match=r"2 of .*3 images have no proposals: b, c.*absent_is_empty=True"
    ):
        import_json(file, dataset, tmp_path / "out")
    stored = StoredProposals(
        import_json(file, dataset, tmp_path / "out", "an RPN", absent_is_empty=True)
    )
    assert stored.source == "an RPN"
    assert [len(stored.boxes(image_id)) for image_id in "abc"] == [1, 0, 0]


def test_ids_are_matched_letter_by_letter(
    tmp_path: Path, make_dataset: Callable[..., DetectionDataset]
) -> None:
    file = write_json(tmp_path / "x.json", [entry(7)])
    with pytest.raises(DataError, match="1 images with proposals are not in the data set: 7"):
        import_json(file, make_dataset({"000007": (9, 9)}), tmp_path / "out", absent_is_empty=True)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "is no list of entries"),
        ([1], "is no list of entries"),
        ([entry("a"), entry(None)], "entry 2: incomplete entry: image_id=None"),
        ([entry(True)], "entry 1: incomplete entry"),
        ([entry("a", score="1")], "entry 1: incomplete entry: image_id='a' score='1'"),
        ([entry("a", score=True)], "entry 1: incomplete entry"),
        ([entry("a", bbox=[1, 2, 3])], "entry 1: unreadable coordinate"),
        ([entry("a", bbox=[20, 2, 20, 3])], "image a, proposal 1 of 1: box outside the image"),
        ([entry("a", bbox=[20, 2, -2, 3])], "image a, proposal 1 of 1: inverted box"),
        ([entry("a", score=float("nan"))], "image a, proposal 1 of 1: score"),
        ([entry("a", score=1e300)], "image a, proposal 1 of 1: score"),
    ],
)
def test_unsound_json_leaves_nothing_behind(
    tmp_path: Path, dataset: DetectionDataset, entries: Sequence[object], message: str
) -> None:
    file = write_json(tmp_path / "x.json", entries)
    with pytest.raises(DataError, match=message):
        import_json(file, dataset, tmp_path / "out", absent_is_empty=True)
    assert list(tmp_path.iterdir()) == [file]


def test_unreadable_json_is_an_error(tmp_path: Path, dataset: DetectionDataset) -> None:
    with pytest.raises(DataError, match="cannot be read as JSON"):
        import_json(tmp_path / "x.json", dataset, tmp_path / "out")
    (tmp_path / "x.json").write_text("[{")
    with pytest.raises(DataError, match=r"cannot be read as JSON.*line 1"):
        import_json(tmp_path / "x.json", dataset, tmp_path / "out")
