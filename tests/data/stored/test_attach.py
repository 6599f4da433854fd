"""Proposals travel with their images, and only with their own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader

from rcnn.data import (
    DataError,
    DetectionDataset,
    EvaluationTransform,
    Pick,
    TrainingTransform,
    TransformedDataset,
    collate,
)
from rcnn.data.stored import StoredProposals, attach
from rcnn.settings import SettingsError

SIZES = {"b": (40, 60), "a": (30, 30), "c": (50, 20)}
RawArray = Callable[[Path, str], np.ndarray]


def test_samples_carry_their_proposals(dataset: DetectionDataset, stored_file: Path) -> None:
    stored = StoredProposals(stored_file)
    proposed = attach(dataset, stored)
    assert list(proposed.image_ids) == ["b", "a", "c"]
    assert proposed.class_names == dataset.class_names
    for index, count in enumerate([3, 1, 0]):
        sample = proposed[index]
        assert_close(sample.proposals, stored.boxes(sample.image_id))
        assert sample.proposals.shape == (count, 4)
        assert_close(sample.image, dataset[index].image)
        assert len(proposed.ground_truth(index)) == 0


def test_limit_is_per_image(dataset: DetectionDataset, stored_file: Path) -> None:
    proposed = attach(dataset, StoredProposals(stored_file), limit=2)
    assert [len(proposed[index].proposals) for index in range(3)] == [2, 1, 0]
    assert len(attach(dataset, StoredProposals(stored_file), limit=None)[0].proposals) == 3
    with pytest.raises(SettingsError, match="limit"):
        attach(dataset, StoredProposals(stored_file), limit=0)


def test_proposals_are_flipped_and_resized_like_boxes(
    dataset: DetectionDataset, stored_file: Path
) -> None:
    proposed = TransformedDataset(
        attach(dataset, StoredProposals(stored_file)), TrainingTransform(1.0, (80,), 200)
    )
    # b: 40 x 60 becomes 80 x 120, a: 30 x 30 becomes 80 x 80, c: 50 x 20 becomes 200 x 80.
    batch = collate([proposed[Pick(index, 0)] for index in range(3)])
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


def test_batch_without_any_proposal_has_an_empty_place(
    dataset: DetectionDataset, stored_file: Path
) -> None:
    proposed = TransformedDataset(
        attach(dataset, StoredProposals(stored_file)), EvaluationTransform(20, 50)
    )
    batch = collate([proposed[Pick(2, 0)]])
    assert batch.images.proposals is not None
    assert batch.images.proposals.boxes.shape == (1, 0, 4)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_workers_read_the_same(dataset: DetectionDataset, stored_file: Path) -> None:
    proposed = attach(dataset, StoredProposals(stored_file))
    loader = DataLoader(proposed, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for sample, right in zip(loader, (proposed[index] for index in range(3)), strict=True):
        assert_close(sample.proposals, right.proposals)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {**SIZES, "d": (9, 9)},
            "1 of the data set's 4 images have no proposals: d",
        ),
        ({"b": (40, 60)}, "2 images with proposals are not in the data set: a, c"),
        (
            {f"{number:02d}": (9, 9) for number in range(5)},
            r"5 of the data set's 5 .*: 00, 01, 02, \.\.\. \(5 in all\); 3 images .*: a, b, c",
        ),
        (
            {**SIZES, "b": (60, 40), "c": (50, 21)},
            r"2 images had another size, height x width: "
            r"b \(40 x 60 instead of 60 x 40\), c \(50 x 20 instead of 50 x 21\)",
        ),
    ],
)
def test_other_images_are_named(
    make_dataset: Callable[..., DetectionDataset],
    stored_file: Path,
    sizes: dict[str, tuple[int, int]],
    message: str,
) -> None:
    with pytest.raises(DataError, match=rf"by hand.*proposals of another data set: {message}"):
        attach(make_dataset(sizes), StoredProposals(stored_file))


def test_other_classes_are_named(
    make_dataset: Callable[..., DetectionDataset], stored_file: Path
) -> None:
    with pytest.raises(DataError, match=r"class names cat, dog\. The data set has cat, cow"):
        attach(make_dataset(class_names=("cat", "cow")), StoredProposals(stored_file))


def test_wrong_digest_alone_is_an_error(dataset: DetectionDataset, stored_file: Path) -> None:
    content = stored_file.read_bytes()
    digest = StoredProposals(stored_file).digest.encode()
    other = stored_file.with_name("other.proposals")
    other.write_bytes(content.replace(digest, b"0" * 64))
    with pytest.raises(DataError, match=r"wrong digest: 0{64}"):
        attach(dataset, StoredProposals(other))


@pytest.mark.parametrize(
    ("row", "box", "message"),
    [
        (0, [0, 0, 31, 5], "image a, proposal 1 of 1: box outside the image: x1=0 y1=0 x2=31 y2=5"),
        (2, [-0.5, 0, 5, 5], "image b, proposal 2 of 3: box outside the image"),
        (3, [5, 9, 8, 3], "image b, proposal 3 of 3: inverted box"),
        (1, [5, 5, 5, 5], "image b, proposal 1 of 3: box without area"),
        (0, [0, 0, np.nan, 5], "image a, proposal 1 of 1: coordinate that is no finite number"),
        (0, [0, 0, np.inf, 5], "image a, proposal 1 of 1: coordinate that is no finite number"),
    ],
)
def test_unsound_box_is_named(
    dataset: DetectionDataset,
    stored_file: Path,
    raw_array: RawArray,
    row: int,
    box: list[float],
    message: str,
) -> None:
    raw_array(stored_file, "boxes")[row] = box
    with pytest.raises(DataError, match=rf"{message}.*1 of the 3 images have unsound proposals"):
        attach(dataset, StoredProposals(stored_file))


def test_swapped_axes_are_recognised(
    dataset: DetectionDataset, stored_file: Path, raw_array: RawArray
) -> None:
    boxes = raw_array(stored_file, "boxes")
    boxes[:] = boxes[:, [1, 0, 3, 2]]
    with pytest.raises(
        DataError,
        match=r"image b, .*\(y1, x1, y2, x2\) order.*60 x 40 .*all 3 boxes.*exchanged.*columns",
    ):
        attach(dataset, StoredProposals(stored_file))


def test_one_box_that_is_outside_either_way_is_no_matter_of_order(
    dataset: DetectionDataset, stored_file: Path, raw_array: RawArray
) -> None:
    boxes = raw_array(stored_file, "boxes")
    boxes[1] = [0, 0, 40, 60]
    with pytest.raises(DataError, match="image b, proposal 1 of 3: box outside the image"):
        attach(dataset, StoredProposals(stored_file))


@pytest.mark.parametrize(
    ("row", "score", "message"),
    [
        (3, 0.9, r"proposals 2 and 3: proposals that are not best first: scores 0\.5 and 0\.9"),
        (3, np.nan, "proposal 3 of 3: score that is no finite number"),
        (0, np.inf, "proposal 1 of 1: score that is no finite number"),
    ],
)
def test_unsound_scores_are_named(
    dataset: DetectionDataset,
    stored_file: Path,
    raw_array: RawArray,
    row: int,
    score: float,
    message: str,
) -> None:
    raw_array(stored_file, "scores")[row] = score
    with pytest.raises(DataError, match=message):
        attach(dataset, StoredProposals(stored_file))


def test_scores_of_one_image_may_be_above_those_of_the_one_before(
    dataset: DetectionDataset, stored_file: Path, raw_array: RawArray, tmp_path: Path
) -> None:
    other = Path(shutil.copy(stored_file, tmp_path / "other.proposals"))
    raw_array(other, "scores")[:] = [-7, 3, 2, 2]
    assert len(attach(dataset, StoredProposals(other))) == 3
