"""Mirroring and resizing."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data import EvaluationTransform, Sample, TrainingTransform, flip, resized
from rcnn.settings import SettingsError
from rcnn.structures import GroundTruth

Make = Callable[..., Sample]
BOXES = [[0, 0, 60, 40], [10, 5, 20, 15], [3, 2, 4, 9]]


def test_flip_mirrors_pixels_boxes_and_proposals(make_sample: Make) -> None:
    sample = make_sample((40, 60), BOXES, proposals=[[10, 5, 20, 15]])
    mirrored = flip(sample)
    assert mirrored.ground_truth.boxes.tolist() == [[0, 0, 60, 40], [40, 5, 50, 15], [56, 2, 57, 9]]
    assert mirrored.proposals is not None
    assert mirrored.proposals.tolist() == [[40, 5, 50, 15]]
    torch.testing.assert_close(mirrored.image[:, 7, 59], sample.image[:, 7, 0])


def test_flip_shows_the_same_pixels_inside_the_box(make_sample: Make) -> None:
    sample = make_sample((40, 60), [[10, 5, 20, 15]])
    x1, y1, x2, y2 = flip(sample).ground_truth.boxes.int()[0].tolist()
    inside = flip(sample).image[:, y1:y2, x1:x2].flip(-1)
    torch.testing.assert_close(inside, sample.image[:, 5:15, 10:20])


@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    corners=st.lists(st.tuples(*[st.floats(0, 20, width=16)] * 4), max_size=3),
)
def test_flipping_twice_changes_nothing(
    height: int, width: int, corners: list[tuple[float, ...]]
) -> None:
    count = len(corners)
    boxes = torch.tensor(corners).reshape(-1, 4)
    no = torch.zeros(count, dtype=torch.bool)
    sample = Sample(
        image=torch.arange(3 * height * width).reshape(3, height, width).to(torch.uint8),
        ground_truth=GroundTruth(boxes, torch.ones(count, dtype=torch.int64), no, no, boxes[:, 0]),
        image_id="a",
        original_size=(height, width),
    )
    twice = flip(flip(sample))
    torch.testing.assert_close(twice.image, sample.image)
    torch.testing.assert_close(twice.ground_truth.boxes, boxes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("boxes", [[], BOXES[:1], BOXES])
def test_transforms_take_any_number_of_objects(make_sample: Make, boxes: list[list[int]]) -> None:
    sample = resized(flip(make_sample((40, 60), boxes)), 80, 1000)
    assert sample.ground_truth.boxes.shape == (len(boxes), 4)
    assert sample.image.shape == (3, 80, 120)


def test_resizing_changes_the_pixels_only(make_sample: Make) -> None:
    sample = make_sample((40, 60), BOXES)
    larger = resized(sample, 80, 1000)
    assert larger.image.shape == (3, 80, 120)
    assert larger.image.dtype == torch.uint8
    assert larger.original_size == (40, 60)
    assert larger.ground_truth is sample.ground_truth
    assert resized(sample, 80, 90).image.shape == (3, 60, 90)  # the longer side is a limit


def test_flip_and_resize_may_change_places(make_sample: Make) -> None:
    sample = make_sample((40, 60), BOXES)
    one, other = resized(flip(sample), 20, 90), flip(resized(sample, 20, 90))
    torch.testing.assert_close(one.ground_truth.boxes, other.ground_truth.boxes)
    difference = (one.image.int() - other.image.int()).abs().max()
    assert difference <= 1


def test_training_transform_flips_with_its_probability(make_sample: Make) -> None:
    sample = make_sample((4, 6), [[0, 0, 1, 1]])
    for probability, low, high in ((0.0, 0, 0), (0.25, 30, 70), (1.0, 200, 200)):
        transform = TrainingTransform(probability, (4,), 6)
        generator = torch.Generator().manual_seed(0)
        flipped = sum(
            transform(sample, generator).ground_truth.boxes[0, 0].item() == 5 for _ in range(200)
        )
        assert low <= flipped <= high


def test_training_transform_draws_every_shorter_side(make_sample: Make) -> None:
    transform = TrainingTransform(0.0, (8, 10, 12), 100)
    generator = torch.Generator().manual_seed(0)
    sample = make_sample((4, 6))
    sides = {transform(sample, generator).image.shape[1] for _ in range(50)}
    assert sides == {8, 10, 12}


def test_same_generator_gives_the_same_result(make_sample: Make) -> None:
    transform = TrainingTransform(0.5, (8, 10, 12), 100)
    sample = make_sample((4, 6), [[0, 0, 1, 1]])

    def results(seed: int) -> list[tuple[int, float]]:
        generator = torch.Generator().manual_seed(seed)
        drawn = [transform(sample, generator) for _ in range(20)]
        return [(one.image.shape[1], one.ground_truth.boxes[0, 0].item()) for one in drawn]

    assert results(1) == results(1)
    assert results(1) != results(2)


def test_evaluation_transform_draws_nothing(make_sample: Make, generator: torch.Generator) -> None:
    before, sample = generator.get_state(), make_sample((4, 6), [[0, 0, 1, 1]])
    changed = EvaluationTransform(8, 100)(sample, generator)
    assert changed.image.shape == (3, 8, 12)
    assert changed.original is None
    assert changed.ground_truth.boxes.tolist() == [[0, 0, 1, 1]]
    assert generator.get_state().equal(before)
    kept = EvaluationTransform(8, 100, keep_original=True)(sample, generator).original
    assert kept is sample.image


def test_impossible_settings_are_named() -> None:
    with pytest.raises(SettingsError, match="flip_probability=2"):
        TrainingTransform(flip_probability=2.0)
    for sides in ((), (0,)):
        with pytest.raises(SettingsError, match="shorter_sides"):
            TrainingTransform(shorter_sides=sides)
    with pytest.raises(SettingsError, match=r"longer_side=500.*600"):
        EvaluationTransform(600, 500)
    with pytest.raises(SettingsError, match="shorter_side=0"):
        EvaluationTransform(shorter_side=0)
