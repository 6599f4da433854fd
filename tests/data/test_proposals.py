"""Stored proposals are read image by image, and travel with their own data set only."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader

from rcnn.data import (
    AugmentSettings,
    DataError,
    DetectionDataset,
    JoinedDataset,
    SampleIndex,
    ShapesDataset,
    TrainingTransform,
    TransformedDataset,
    VOCDataset,
    collate,
)
from rcnn.data.proposal_writer import ProposalWriter
from rcnn.data.proposals import ProposalFiles, ProposedDataset, StoredProposals, fingerprint
from rcnn.settings import SettingsError

SIZES = {"b": (40, 60), "a": (30, 30), "c": (50, 20)}
Boxes = dict[str, Tensor]
Make = Callable[..., DetectionDataset]
Change = Callable[..., Path]


@pytest.fixture
def header(stored_file: Path) -> dict[str, object]:
    """The metadata of the stored file, as any program can read it."""
    content = stored_file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    found = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["proposals"])
    assert isinstance(found, dict)
    return found


@pytest.fixture
def change(stored_file: Path, header: dict[str, object], tmp_path: Path) -> Change:
    """Writes a copy of the stored file with other tensors or metadata."""

    def write(metadata: dict[str, object] | None = None, **tensors: Tensor) -> Path:
        path = tmp_path / "changed.safetensors"
        entry = json.dumps({**header, **(metadata or {})})
        save_file({**load_file(stored_file), **tensors}, path, {"proposals": entry})
        return path

    return write


def counts(dataset: DetectionDataset) -> list[int]:
    """The number of proposals of each image."""
    given = [dataset[index].proposals for index in range(len(dataset))]
    return [len(proposals) for proposals in given if proposals is not None]


# Reading


def test_boxes_and_scores_come_back_by_image(
    stored_file: Path, boxes: Boxes, blank: DetectionDataset
) -> None:
    stored = StoredProposals(stored_file)
    assert (stored.header.origin, stored.header.class_names) == ("by hand", ("cat", "dog"))
    assert stored.header.fingerprint == fingerprint(blank)
    assert list(stored.image_ids) == ["a", "b", "c"]
    assert stored.sizes.tolist() == [[30, 30], [40, 60], [50, 20]]
    assert stored.counts.tolist() == [1, 3, 0]
    for image_id, corners in boxes.items():
        assert_close(stored.boxes(image_id), corners)
    assert_close(stored.scores("b"), torch.tensor([1, 1 / 2, 1 / 3]))
    assert stored.scores("c").shape == (0,)


def test_format_is_four_tensors_and_one_entry_of_metadata(
    stored_file: Path, header: dict[str, object], blank: DetectionDataset
) -> None:
    tensors = load_file(stored_file)
    assert {name: (str(t.dtype), list(t.shape)) for name, t in tensors.items()} == {
        "boxes": ("torch.float32", [4, 4]),
        "scores": ("torch.float32", [4]),
        "offsets": ("torch.int64", [4]),
        "sizes": ("torch.int32", [3, 2]),
    }
    assert tensors["offsets"].tolist() == [0, 1, 4, 4]
    assert header["image_ids"] == ["a", "b", "c"]
    assert header["fingerprint"] == fingerprint(blank)


def test_limit_takes_the_best_of_each_image(stored_file: Path, blank: DetectionDataset) -> None:
    stored = StoredProposals(stored_file)
    for limit, count in ((None, 3), (1, 1), (3, 3), (9, 3)):
        assert_close(stored.boxes("b", limit), stored.boxes("b")[:count])
        assert_close(stored.scores("b", limit), stored.scores("b")[:count])
    assert counts(ProposedDataset(blank, stored, limit=2)) == [2, 1, 0]
    assert counts(ProposedDataset(blank, stored, limit=None)) == [3, 1, 0]
    with pytest.raises(SettingsError, match="limit=0"):
        ProposedDataset(blank, stored, limit=0)


@pytest.mark.parametrize("sizes", [{"a": (9, 9)}, {"a": (9, 9), "b": (9, 9)}])
def test_images_may_all_be_without_proposals(
    tmp_path: Path, make_blank: Make, sizes: dict[str, tuple[int, int]]
) -> None:
    dataset = make_blank(sizes, ("dog",))
    with ProposalWriter(tmp_path / "none.safetensors", dataset, "by hand") as writer:
        for image_id in sizes:
            writer.add(image_id, torch.zeros(0, 4))
        proposed = ProposedDataset(dataset, StoredProposals(writer.finish()))
    assert counts(proposed) == [0] * len(sizes)


def test_unknown_image_is_an_error(stored_file: Path) -> None:
    for image_id in ("0", "aa", "z"):
        with pytest.raises(DataError, match=f"no proposals of an image {image_id}"):
            StoredProposals(stored_file).boxes(image_id)


def test_boxes_are_copies_and_a_pickle_holds_the_path_only(stored_file: Path) -> None:
    stored = StoredProposals(stored_file)
    stored.boxes("a").zero_()
    assert stored.boxes("a").sum() > 0
    content = pickle.dumps(stored)
    assert len(content) < 200 + 2 * len(str(stored_file))
    assert_close(pickle.loads(content).boxes("b"), stored.boxes("b"))


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_truncated_file_is_refused_with_the_command_that_makes_it(
    stored_file: Path, part: float
) -> None:
    content = stored_file.read_bytes()
    for wrong in (content[: int(part * len(content))], content + b"\0"):
        stored_file.write_bytes(wrong)
        with pytest.raises(DataError, match=rf"some\.safetensors.*rcnn propose .*{stored_file}"):
            StoredProposals(stored_file)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"PK\3\4", b"[{}]" * 99, save({"weight": torch.ones(2)})):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(DataError, match=r"x is no sound .*rcnn propose"):
            StoredProposals(tmp_path / "x")


def test_missing_file_names_the_folder_of_an_unfinished_one(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors.shards").mkdir()
    with pytest.raises(DataError, match=r"rcnn propose.*goes on with .*x\.safetensors\.shards"):
        StoredProposals(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"format": 2}, {}, "format=2"),
        ({"image_ids": ["b", "a", "c"]}, {}, "ids are not in order"),
        ({"image_ids": ["a", "b"]}, {}, "offsets"),
        ({"image_ids": ["a", "b", 3]}, {}, r"image_ids\[2\]=3"),
        ({"class_names": "cat"}, {}, "class_names='cat'"),
        ({}, {"offsets": torch.tensor([0, 9, 4, 4])}, "offsets"),
        ({}, {"offsets": torch.tensor([1, 1, 4, 4])}, "offsets"),
        ({}, {"offsets": torch.tensor([0, 1, 4, 5])}, "offsets"),
        ({}, {"offsets": torch.tensor([0, 1, 4])}, "offsets"),
        ({}, {"boxes": torch.zeros(5, 4)}, "boxes"),
        ({}, {"boxes": torch.zeros(4, 4, dtype=torch.float64)}, "boxes"),
        ({}, {"sizes": torch.zeros(3, 2)}, "sizes"),
        ({}, {"more": torch.zeros(1)}, "more"),
    ],
)
def test_damaged_metadata_and_wrong_tensors_are_noticed(
    change: Change, metadata: dict[str, object], tensors: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(DataError, match=rf"changed\.safetensors.*{message}"):
        StoredProposals(change(metadata, **tensors))


# A data set with its proposals


def test_samples_carry_their_proposals(
    blank: DetectionDataset, stored_file: Path, boxes: Boxes
) -> None:
    proposed = ProposedDataset(blank, StoredProposals(stored_file))
    assert list(proposed.image_ids) == ["b", "a", "c"]
    assert proposed.class_names == blank.class_names
    for index, image_id in enumerate(["b", "a", "c"]):
        assert_close(proposed[index].proposals, boxes[image_id])
        assert_close(proposed[index].image, blank[index].image)
        assert len(proposed.ground_truth(index)) == 0


def test_proposals_are_flipped_and_resized_like_boxes(
    blank: DetectionDataset, stored_file: Path
) -> None:
    proposed = TransformedDataset(
        ProposedDataset(blank, StoredProposals(stored_file)),
        TrainingTransform(AugmentSettings(flip=1.0), 80, 200),
    )
    # b: 40 x 60 becomes 80 x 120, a: 30 x 30 becomes 80 x 80, c: 50 x 20 becomes 200 x 80.
    batch = collate([proposed[SampleIndex(index, 0)] for index in range(3)])
    assert batch.images.proposals is not None
    assert batch.images.sizes.tolist() == [[80, 120], [80, 80], [200, 80]]
    third = 8 / 3
    assert_close(
        batch.images.proposals.boxes,
        torch.tensor(
            [
                [[0, 0, 120, 80], [80, 10, 100, 50], [10, 60, 30, 78]],
                [[27 * third, 2 * third, 29 * third, 12], [0] * 4, [0] * 4],
                [[0] * 4] * 3,
            ]
        ).float(),
    )
    assert batch.images.proposals.valid.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    alone = collate([proposed[SampleIndex(2, 0)]]).images.proposals
    assert alone is not None
    assert alone.boxes.shape == (1, 0, 4)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_the_same(tmp_path: Path, start: str) -> None:
    shapes = ShapesDataset(3, size=48)
    with ProposalWriter(tmp_path / "x.safetensors", shapes, "the objects") as writer:
        for index, image_id in enumerate(shapes.image_ids):
            writer.add(image_id, shapes.ground_truth(index).boxes)
        proposed = ProposedDataset(shapes, StoredProposals(writer.finish()))
    loader = DataLoader(proposed, batch_size=None, num_workers=1, multiprocessing_context=start)
    for index, sample in enumerate(loader):
        assert_close(sample.proposals, shapes.ground_truth(index).boxes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({**SIZES, "d": (9, 9)}, "1 of the data set's 4 images have no proposals: d"),
        ({"b": (40, 60)}, "2 images with proposals are not in the data set: a, c"),
        (
            {f"{number:02d}": (9, 9) for number in range(5)},
            r"5 of the data set's 5 .*: 00, 01, 02, \.\.\.; 3 images .*: a, b, c",
        ),
        (
            {**SIZES, "b": (60, 40), "c": (50, 21)},
            r"b \(40 x 60 instead of 60 x 40\), c \(50 x 20 instead of 50 x 21\)",
        ),
    ],
)
def test_other_images_are_named(
    make_blank: Make, stored_file: Path, sizes: dict[str, tuple[int, int]], message: str
) -> None:
    with pytest.raises(DataError, match=rf"by hand.*{message}.*rcnn propose"):
        ProposedDataset(make_blank(sizes), StoredProposals(stored_file))


def test_other_classes_and_another_fingerprint_alone_are_named(
    blank: DetectionDataset, make_blank: Make, stored_file: Path, change: Change
) -> None:
    for names in (("cat", "cow"), ("dog", "cat"), ("cat",)):
        with pytest.raises(DataError, match=f"cat, dog instead of {', '.join(names)}"):
            ProposedDataset(make_blank(class_names=names), StoredProposals(stored_file))
    with pytest.raises(DataError, match=rf"0{{64}} is not {fingerprint(blank)}"):
        ProposedDataset(blank, StoredProposals(change({"fingerprint": "0" * 64})))


@pytest.mark.parametrize(
    ("tensor", "row", "value", "message"),
    [
        ("boxes", 0, [0, 0, 31, 5], "image a, proposal 1 of 1: unsound box: x1=0 y1=0 x2=31 y2=5"),
        ("boxes", 2, [-0.5, 0, 5, 5], "image b, proposal 2 of 3: unsound box"),
        ("boxes", 1, [0, 0, 40, 60], "image b, proposal 1 of 3: unsound box"),
        ("boxes", 3, [5, 9, 8, 3], "image b, proposal 3 of 3: unsound box"),
        ("boxes", 1, [5, 5, 5, 5], "image b, proposal 1 of 3: unsound box"),
        ("boxes", 0, [0, 0, np.nan, 5], "image a, proposal 1 of 1: unsound box"),
        ("boxes", 0, [0, 0, np.inf, 5], "image a, proposal 1 of 1: unsound box"),
        ("scores", 3, 0.9, r"image b, proposal 3 of 3: .*not best first.*score=0\.9"),
        ("scores", 3, np.nan, "image b, proposal 3 of 3: unsound score"),
        ("scores", 0, np.inf, "image a, proposal 1 of 1: unsound score"),
    ],
)
def test_unsound_proposal_is_named(
    blank: DetectionDataset,
    stored_file: Path,
    change: Change,
    tensor: str,
    row: int,
    value: object,
    message: str,
) -> None:
    wrong = load_file(stored_file)[tensor]
    wrong[row] = torch.tensor(value)
    with pytest.raises(DataError, match=rf"{message}.*rcnn propose"):
        ProposedDataset(blank, StoredProposals(change(**{tensor: wrong})))


def test_swapped_axes_are_recognised(
    blank: DetectionDataset, stored_file: Path, change: Change
) -> None:
    swapped = load_file(stored_file)["boxes"][:, [1, 0, 3, 2]].contiguous()
    with pytest.raises(DataError, match=r"image b, .*\(y1, x1, y2, x2\).*all 3 boxes.*columns"):
        ProposedDataset(blank, StoredProposals(change(boxes=swapped)))


def test_scores_of_one_image_may_be_above_those_of_the_one_before(
    blank: DetectionDataset, change: Change
) -> None:
    path = change(scores=torch.tensor([-7.0, 3, 2, 2]))
    assert len(ProposedDataset(blank, StoredProposals(path))) == 3


def test_files_of_a_run_are_found_by_split(
    blank: DetectionDataset, stored_file: Path, boxes: Boxes
) -> None:
    shutil.copy(stored_file, stored_file.with_name("val.safetensors"))
    proposed = ProposalFiles(str(stored_file.parent), limit=1).with_proposals(blank, "val")
    assert_close(proposed[0].proposals, boxes["b"][:1])


def test_missing_files_of_a_run_are_named_with_the_command(
    blank: DetectionDataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"proposals\.folder is null.*rcnn propose"):
        ProposalFiles().with_proposals(blank, "train")
    files = ProposalFiles(str(tmp_path))
    with pytest.raises(DataError, match=rf"rcnn propose .*{tmp_path}/train\.safetensors"):
        files.with_proposals(blank, "train")
    with pytest.raises(SettingsError, match="limit=0"):
        ProposalFiles(limit=0)


# The fingerprint


def test_fingerprint_is_that_of_the_documented_text(blank: DetectionDataset) -> None:
    # printf '["cat", "dog"]\n["a", 30, 30]\n["b", 40, 60]\n["c", 50, 20]' | sha256sum
    expected = "d802186323374163c3e0838079eb2ba063a8ddb5cdd17df0077edabd6c109a4e"
    assert fingerprint(blank) == expected


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ({**SIZES, "d": (1, 1)}, ("cat", "dog")),
        ({"b": (40, 60), "a": (30, 30)}, ("cat", "dog")),
        ({**SIZES, "b": (60, 40)}, ("cat", "dog")),
        (SIZES, ("dog", "cat")),
        (SIZES, ("cat",)),
    ],
)
def test_images_sizes_and_classes_change_the_fingerprint_and_their_order_does_not(
    make_blank: Make, sizes: dict[str, tuple[int, int]], names: tuple[str, ...]
) -> None:
    assert fingerprint(make_blank(sizes, names)) != fingerprint(make_blank())
    assert fingerprint(make_blank(dict(reversed(SIZES.items())))) == fingerprint(make_blank())


def test_sizes_are_those_of_the_samples_and_known_without_decoding(
    write_voc: Callable[..., Path], blank: DetectionDataset, stored_file: Path
) -> None:
    folder = write_voc("a")
    write_voc("b")
    voc = VOCDataset(folder, "train", class_names=("dog",))
    joined = JoinedDataset({"one": blank, "two": blank})
    proposed = ProposedDataset(blank, StoredProposals(stored_file))
    for each in (voc, ShapesDataset(2, size=48), joined, proposed):
        found = [list(each[index].original_size) for index in range(len(each))]
        assert each.sizes.tolist() == found
    (folder / "JPEGImages" / "a.jpg").unlink()
    assert fingerprint(JoinedDataset({"one": voc})) != fingerprint(voc)
