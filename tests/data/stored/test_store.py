"""What is written comes back, and nothing else is taken for it."""

import json
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from rcnn.data import DataError, DetectionDataset, ShapesDataset
from rcnn.data.index import PackedStrings
from rcnn.data.stored import ProposalWriter, StoredProposals, digest
from rcnn.data.stored.layout import MARK, PREFIX, VERSION, Layout, Origin

Boxes = Mapping[str, Sequence[Sequence[float]]]


def test_boxes_and_scores_come_back_by_image(stored_file: Path, boxes: Boxes) -> None:
    stored = StoredProposals(stored_file)
    assert (stored.source, stored.class_names) == ("by hand", ("cat", "dog"))
    assert list(stored.image_ids) == ["a", "b", "c"]
    assert stored.sizes.tolist() == [[30, 30], [40, 60], [50, 20]]
    for image_id, corners in boxes.items():
        assert_close(stored.boxes(image_id), torch.tensor(corners).float().reshape(-1, 4))
    assert_close(stored.scores("b"), torch.tensor([1, 1 / 2, 1 / 3]))
    assert stored.scores("c").shape == (0,)


@pytest.mark.parametrize(("limit", "count"), [(None, 3), (1, 1), (3, 3), (9, 3)])
def test_limit_takes_the_best(stored_file: Path, limit: int | None, count: int) -> None:
    stored = StoredProposals(stored_file)
    assert_close(stored.boxes("b", limit), stored.boxes("b")[:count])
    assert_close(stored.scores("b", limit), stored.scores("b")[:count])


def test_limit_does_not_reach_into_the_next_image(stored_file: Path) -> None:
    assert len(StoredProposals(stored_file).boxes("a", 2)) == 1


def test_unknown_image_is_an_error(stored_file: Path) -> None:
    for image_id in ("0", "aa", "z"):
        with pytest.raises(DataError, match=f"unknown image: {image_id}.*3 images: a, b, c"):
            StoredProposals(stored_file).boxes(image_id)


def test_result_is_a_copy_that_may_be_written(stored_file: Path) -> None:
    stored = StoredProposals(stored_file)
    stored.boxes("a").zero_()
    assert stored.boxes("a").sum() > 0


def test_pickle_holds_the_path_only(stored_file: Path) -> None:
    stored = StoredProposals(stored_file)
    content = pickle.dumps(stored)
    assert len(content) < 200 + 2 * len(str(stored_file))
    assert_close(pickle.loads(content).boxes("b"), stored.boxes("b"))


def test_arrays_lie_in_the_file_and_not_in_memory(
    stored_file: Path, raw_array: Callable[[Path, str], np.ndarray]
) -> None:
    stored = StoredProposals(stored_file)
    raw_array(stored_file, "boxes")[0] = [5, 6, 7, 8]
    assert_close(stored.boxes("a"), torch.tensor([[5.0, 6, 7, 8]]))


side = st.lists(st.floats(0, 10, width=32), min_size=2, max_size=2, unique=True).map(sorted)
# Left and right, top and bottom.
box = st.tuples(side, side).map(lambda sides: tuple(s[end] for end in (0, 1) for s in sides))
rows = st.lists(st.tuples(box, st.floats(-1e6, 1e6, width=32)), max_size=4)


@settings(deadline=None, max_examples=30)
@given(images=st.dictionaries(st.text("ab/é😀￿", min_size=1, max_size=3), rows, min_size=1))
def test_round_trip_sorts_by_score(
    images: dict[str, list], tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset = ShapesDataset(len(images), size=16)
    dataset.image_ids = PackedStrings(images)
    path = tmp_path_factory.mktemp("round") / "x.proposals"
    with ProposalWriter(path, dataset, "hypothesis") as writer:
        for image_id, entries in images.items():
            corners = torch.tensor([corners for corners, _ in entries]).float().reshape(-1, 4)
            writer.add(image_id, corners, torch.tensor([score for _, score in entries]).float())
        writer.finish()
    stored = StoredProposals(path)
    stored.check()
    assert stored.digest == digest(dataset)
    assert len(stored) == len(images)
    for image_id, entries in images.items():
        wanted = sorted(entries, key=lambda entry: -entry[1])
        assert stored.boxes(image_id).tolist() == [list(corners) for corners, _ in wanted]
        assert stored.scores(image_id).tolist() == [score for _, score in wanted]


def boundaries(path: Path) -> dict[str, int]:
    """Where each part of a file begins."""
    length = PREFIX.unpack(path.read_bytes()[: PREFIX.size])[2]
    layout = Layout.parse(path.read_bytes()[PREFIX.size : PREFIX.size + length])
    starts = {name: layout.start + offset for name, offset in layout.offsets.items() if name}
    return {"half a mark": 5, "version": 8, "length": 20, "header": PREFIX.size, **starts}


@pytest.mark.parametrize(
    "part",
    [
        *("half a mark", "version", "length", "header"),
        *("id_ends", "id_bytes", "sizes", "ends", "scores", "boxes"),
    ],
)
@pytest.mark.parametrize("beyond", [0, 1])
def test_truncation_is_noticed(stored_file: Path, part: str, beyond: int) -> None:
    content = stored_file.read_bytes()
    stored_file.write_bytes(content[: boundaries(stored_file)[part] + beyond])
    with pytest.raises(DataError, match=r"wrong length.*cut off.*copy it again"):
        StoredProposals(stored_file)


def test_missing_last_byte_and_surplus_byte_are_noticed(stored_file: Path) -> None:
    content = stored_file.read_bytes()
    for wrong in (content[:-1], content + b"\0"):
        stored_file.write_bytes(wrong)
        with pytest.raises(DataError, match=f"{len(wrong)} bytes.*{len(content)}"):
            StoredProposals(stored_file)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"[{}]" * 99])
def test_other_file_is_told_apart(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"no stored-proposal file.*begins with.*import_mat"):
        StoredProposals(path)


def test_other_version_is_told_apart(stored_file: Path) -> None:
    content = bytearray(stored_file.read_bytes())
    content[8] = 7
    stored_file.write_bytes(content)
    with pytest.raises(DataError, match=r"version 7.*reads version 1"):
        StoredProposals(stored_file)


def test_missing_file_names_the_folder_of_an_unfinished_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read.*x\.proposals\.partial"):
        StoredProposals(tmp_path / "x.proposals")


@pytest.mark.parametrize(
    ("array", "place", "value", "message"),
    [
        ("ends", 1, 9, "do not rise"),
        ("ends", 0, 1, "do not rise"),
        ("id_ends", 3, 2, "do not rise"),
        ("id_bytes", 0, 255, "no UTF-8"),
        ("id_bytes", 0, ord("b"), "not in order"),
    ],
)
def test_damage_is_noticed(
    stored_file: Path,
    raw_array: Callable[[Path, str], np.ndarray],
    array: str,
    place: int,
    value: int,
    message: str,
) -> None:
    raw_array(stored_file, array)[place] = value
    with pytest.raises(DataError, match=rf"damaged file.*{message}"):
        StoredProposals(stored_file)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"<f4"', b'"<f8"'),
        (b'{"source"', b'["source"'),
        (b'"source"', b'"SOURCE"'),
        (b'"proposals": 4', b'"proposals": 5'),
        (b'"images": 3', b'"images": x'),
        (b'"offset": 0', b'"offset": 8'),
    ],
)
def test_damaged_header_is_noticed(stored_file: Path, old: bytes, new: bytes) -> None:
    content = stored_file.read_bytes()
    assert old in content
    stored_file.write_bytes(content.replace(old, new, 1))
    with pytest.raises(DataError, match="damaged file"):
        StoredProposals(stored_file)


def test_header_that_promises_more_than_the_file_has_is_noticed(tmp_path: Path) -> None:
    header = Layout(Origin("s", "d", ("cat",), "0"), images=3, proposals=99, id_bytes=3).header
    length = PREFIX.size + len(header) + 100
    path = tmp_path / "x.proposals"
    path.write_bytes(PREFIX.pack(MARK, VERSION, len(header), length) + header + bytes(100))
    with pytest.raises(DataError, match="damaged file: the arrays do not fill it"):
        StoredProposals(path)


def test_header_may_be_written_with_other_spaces_and_more_keys(
    stored_file: Path, tmp_path: Path
) -> None:
    content = stored_file.read_bytes()
    mark, version, length, _ = PREFIX.unpack(content[: PREFIX.size])
    header = json.loads(content[PREFIX.size : PREFIX.size + length])
    arrays = content[-(-(PREFIX.size + length) // 64) * 64 :]
    new = json.dumps({**header, "note": "x" * 200}, indent=3).encode()
    start = -(-(PREFIX.size + len(new)) // 64) * 64
    prefix = PREFIX.pack(mark, version, len(new), start + len(arrays))
    other = tmp_path / "other.proposals"
    other.write_bytes((prefix + new).ljust(start, b"\0") + arrays)
    assert_close(StoredProposals(other).boxes("b"), StoredProposals(stored_file).boxes("b"))


def test_arrays_are_aligned_and_in_their_order() -> None:
    layout = Layout(Origin("s", "d", ("cat",), "0"), images=3, proposals=5, id_bytes=7)
    assert layout.offsets == {
        "id_ends": 0,
        "id_bytes": 64,
        "sizes": 128,
        "ends": 192,
        "scores": 256,
        "boxes": 320,
        "": 400,
    }
    assert layout.start % 64 == 0
    assert Layout.parse(layout.header) == layout


def test_many_proposals_are_checked_in_parts(
    monkeypatch: pytest.MonkeyPatch,
    stored_file: Path,
    raw_array: Callable[[Path, str], np.ndarray],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("rcnn.data.stored.store.CHUNK", 1)
    StoredProposals(stored_file).check()
    for row, image_id in enumerate("abbb"):
        broken = Path(shutil.copy(stored_file, tmp_path / f"{row}.proposals"))
        raw_array(broken, "boxes")[row, 2] = np.nan
        with pytest.raises(DataError, match=f"image {image_id}, .*1 of the 3 images .*{image_id}"):
            StoredProposals(broken).check()


def test_digest_is_that_of_the_data_set(stored_file: Path, dataset: DetectionDataset) -> None:
    assert StoredProposals(stored_file).digest == digest(dataset)
