"""A file appears whole or not at all, and a killed writer's work is not lost."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from rcnn.data import DataError, DetectionDataset
from rcnn.data.stored import ProposalWriter, StoredProposals
from rcnn.settings import SettingsError

Boxes = Mapping[str, Sequence[Sequence[float]]]


def table(corners: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


def partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def killed(path: Path, dataset: DetectionDataset, boxes: Boxes) -> None:
    """Leave on disk what a writer has put there after ``boxes`` were added, had it died then."""
    with ProposalWriter(path.with_name("victim"), dataset, "by hand") as writer:
        for image_id, corners in boxes.items():
            writer.add(image_id, table(corners))
        shutil.copytree(partial(path.with_name("victim")), partial(path))


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_resumed_file_equals_an_uninterrupted_one(
    tmp_path: Path, dataset: DetectionDataset, boxes: Boxes, stored_file: Path, killed_after: int
) -> None:
    path = tmp_path / "resumed.proposals"
    killed(path, dataset, dict(list(boxes.items())[:killed_after]))
    assert not path.exists()
    with ProposalWriter(path, dataset, "by hand") as second:
        assert second.missing() == list(boxes)[killed_after:]
        for image_id in second.missing():
            second.add(image_id, table(boxes[image_id]))
        assert second.finish() == path
    assert path.read_bytes() == stored_file.read_bytes()
    assert not partial(path).exists()


@pytest.mark.parametrize("file", ["journal", "data"])
@pytest.mark.parametrize("cut", [1, 7])
def test_half_written_image_is_made_again(
    tmp_path: Path, dataset: DetectionDataset, boxes: Boxes, stored_file: Path, file: str, cut: int
) -> None:
    path = tmp_path / "resumed.proposals"
    killed(path, dataset, {image_id: boxes[image_id] for image_id in ("a", "b")})
    torn = partial(path) / file
    torn.write_bytes(torn.read_bytes()[:-cut])
    with ProposalWriter(path, dataset, "by hand") as second:
        assert second.missing() == ["b", "c"]
        for image_id in second.missing():
            second.add(image_id, table(boxes[image_id]))
        second.finish()
    assert path.read_bytes() == stored_file.read_bytes()


@pytest.mark.parametrize("file", ["journal", "data"])
def test_writer_may_be_killed_again_and_again(
    tmp_path: Path, dataset: DetectionDataset, boxes: Boxes, stored_file: Path, file: str
) -> None:
    path = tmp_path / "resumed.proposals"
    killed(path, dataset, {image_id: boxes[image_id] for image_id in ("a", "b")})
    torn = partial(path) / file
    torn.write_bytes(torn.read_bytes()[:-1])
    with ProposalWriter(path, dataset, "by hand") as second:
        second.add("b", table(boxes["b"]))
    with ProposalWriter(path, dataset, "by hand") as third:
        assert third.missing() == ["c"]
        third.add("c", table(boxes["c"]))
        third.finish()
    assert path.read_bytes() == stored_file.read_bytes()


@pytest.mark.parametrize("line", [b"\0\0\0\n", b"5\n", b'["c", 0, 1]\n', b'["c", 2, 0]\n'])
def test_journal_is_believed_up_to_its_first_fault(
    tmp_path: Path, dataset: DetectionDataset, boxes: Boxes, line: bytes
) -> None:
    path = tmp_path / "x.proposals"
    killed(path, dataset, {"a": boxes["a"]})
    with (partial(path) / "journal").open("ab") as journal:
        journal.write(line)
    with ProposalWriter(path, dataset, "by hand") as second:
        assert second.missing() == ["b", "c"]
    with ProposalWriter(path, dataset, "by hand") as third:
        assert third.missing() == ["b", "c"]


def test_changed_bytes_of_a_finished_image_are_made_again(
    tmp_path: Path, dataset: DetectionDataset, boxes: Boxes
) -> None:
    path = tmp_path / "x.proposals"
    with ProposalWriter(path, dataset, "by hand") as first:
        first.add("b", table(boxes["b"]))
    data = partial(path) / "data"
    data.write_bytes(bytes(len(data.read_bytes())))
    with ProposalWriter(path, dataset, "by hand") as second:
        assert "b" in second.missing()


def test_order_of_adding_and_of_the_data_set_do_not_matter(
    tmp_path: Path,
    make_dataset: Callable[..., DetectionDataset],
    boxes: Boxes,
    stored_file: Path,
) -> None:
    path = tmp_path / "other.proposals"
    dataset = make_dataset({"c": (50, 20), "a": (30, 30), "b": (40, 60)})
    with ProposalWriter(path, dataset, "by hand") as writer:
        for image_id in ("c", "a", "b"):
            writer.add(image_id, table(boxes[image_id]))
        writer.finish()
    assert path.read_bytes() == stored_file.read_bytes()


def test_file_needs_every_image(tmp_path: Path, dataset: DetectionDataset) -> None:
    path = tmp_path / "x.proposals"
    with ProposalWriter(path, dataset, "by hand") as writer:
        writer.add("a", table([]))
        with pytest.raises(DataError, match="2 of 3 images have no proposals yet: b, c"):
            writer.finish()
        assert not path.exists()
        writer.add("b", table([]))
        writer.add("c", table([]))
        writer.finish()
    assert StoredProposals(path).boxes("b").shape == (0, 4)


def test_existing_file_is_not_overwritten(stored_file: Path, dataset: DetectionDataset) -> None:
    with pytest.raises(DataError, match="exists already"):
        ProposalWriter(stored_file, dataset, "by hand")


@pytest.mark.parametrize("change", ["source", "data set"])
def test_work_begun_for_something_else_is_refused(
    tmp_path: Path,
    dataset: DetectionDataset,
    make_dataset: Callable[..., DetectionDataset],
    change: str,
) -> None:
    path = tmp_path / "x.proposals"
    with ProposalWriter(path, dataset, "fast") as writer:
        writer.add("a", table([]))
    other = dataset if change == "source" else make_dataset({"a": (9, 9)})
    with pytest.raises(DataError, match=r"begun for other proposals.*fast.*Delete the folder"):
        ProposalWriter(path, other, "quality" if change == "source" else "fast")


def test_without_resuming_nothing_is_taken_over_or_left(
    tmp_path: Path, dataset: DetectionDataset
) -> None:
    path = tmp_path / "x.proposals"
    with ProposalWriter(path, dataset, "fast") as writer:
        writer.add("a", table([]))
    with ProposalWriter(path, dataset, "quality", resume=False) as writer:
        assert writer.missing() == ["b", "a", "c"]
        writer.add("a", table([]))
    assert list(tmp_path.iterdir()) == []


def test_images_are_added_once_and_only_of_the_data_set(
    tmp_path: Path, dataset: DetectionDataset
) -> None:
    with ProposalWriter(tmp_path / "x", dataset, "by hand") as writer:
        writer.add("a", table([]))
        with pytest.raises(DataError, match="image a: has its proposals already"):
            writer.add("a", table([]))
        with pytest.raises(DataError, match=r"unknown image: d.*3 images: b, a, c"):
            writer.add("d", table([]))


def test_equal_scores_keep_their_order_and_the_best_comes_first(
    tmp_path: Path, make_dataset: Callable[..., DetectionDataset]
) -> None:
    corners = table([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]])
    with ProposalWriter(tmp_path / "x", make_dataset({"a": (9, 9)}), "by hand") as writer:
        writer.add("a", corners.double().float(), torch.tensor([-5.0, 2.0, 2.0]))
        stored = StoredProposals(writer.finish())
    assert stored.boxes("a")[:, 2].tolist() == [2, 3, 1]
    assert stored.scores("a").tolist() == [2, 2, -5]


def test_boxes_may_pass_the_border_by_a_pixel_and_are_clipped(
    tmp_path: Path, make_dataset: Callable[..., DetectionDataset]
) -> None:
    with ProposalWriter(tmp_path / "x", make_dataset({"a": (20, 30)}), "by hand") as writer:
        writer.add("a", table([[-1, -0.5, 31, 20.001]]))
        stored = StoredProposals(writer.finish())
    assert stored.boxes("a").tolist() == [[0, 0, 30, 20]]
    stored.check()


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([0, 0, float("nan"), 5], "no finite number"),
        ([0, 0, float("inf"), 5], "no finite number"),
        ([5, 0, 4, 5], "inverted box"),
        ([5, 0, 5, 5], "box without area"),
        ([30, 0, 31, 5], "box outside the image"),
        ([0, -2, 5, 5], "box outside the image"),
        ([0, 0, 15, 28], r"\(y1, x1, y2, x2\) order"),
    ],
)
def test_unsound_box_is_refused(
    tmp_path: Path,
    make_dataset: Callable[..., DetectionDataset],
    box: list[float],
    reason: str,
) -> None:
    with ProposalWriter(tmp_path / "x", make_dataset({"a": (20, 30)}), "by hand") as writer:
        with pytest.raises(DataError, match=rf"x, image a, proposal 2 of 2: .*{reason}.*30 x 20"):
            writer.add("a", table([[0, 0, 5, 5], box]))
        assert writer.missing() == ["a"]


def test_score_has_to_be_a_number_and_a_source_some_words(
    tmp_path: Path, dataset: DetectionDataset
) -> None:
    with (
        ProposalWriter(tmp_path / "x", dataset, "by hand") as writer,
        pytest.raises(DataError, match="image a, proposal 1 of 1: score that is no finite number"),
    ):
        writer.add("a", table([[0, 0, 5, 5]]), torch.tensor([float("nan")]))
    with pytest.raises(SettingsError, match="source"):
        ProposalWriter(tmp_path / "y", dataset, " ")
