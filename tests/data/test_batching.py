"""Samples into minibatches."""

from collections.abc import Callable

import pytest
import torch

from rcnn.data import DetectionBatch, Sample, collate, flip, resized

Make = Callable[..., Sample]


def test_pictures_stand_at_the_top_left_of_a_padded_batch(make_sample: Make) -> None:
    wide, high = make_sample((40, 60)), make_sample((50, 30))
    batch = collate([wide, high], multiple=32)
    assert batch.images.pixels.shape == (2, 3, 64, 64)
    assert batch.images.sizes.tolist() == [[40, 60], [50, 30]]
    assert batch.images.original_sizes.tolist() == [[40, 60], [50, 30]]
    torch.testing.assert_close(batch.images.pixels[0, :, :40, :60], wide.image)
    torch.testing.assert_close(batch.images.pixels[1, :, :50, :30], high.image)
    assert batch.images.pixels[0, :, 40:].max() == 0
    assert batch.images.pixels[1, :, :, 30:].max() == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_objects_are_padded_to_the_most_of_any_image(make_sample: Make, count: int) -> None:
    boxes = [[1, 2, 30, 20], [4, 5, 6, 7], [0, 0, 60, 40]]
    batch = collate([make_sample((40, 60), boxes[:count]), make_sample((40, 60), boxes[:1])])
    most = max(count, 1)
    assert batch.targets.boxes.shape == (2, most, 4)
    assert batch.targets.labels[0, :count].tolist() == list(range(1, count + 1))
    assert batch.targets.labels[0, count:].tolist() == [0] * (most - count)
    assert (batch.targets.labels > 0).sum() == count + 1
    assert batch.targets.difficult[0, :count].tolist() == [number == 1 for number in range(count)]
    assert batch.targets.crowd[0, :count].tolist() == [number == 2 for number in range(count)]
    assert [len(ground_truth) for ground_truth in batch.ground_truths] == [count, 1]


def test_batch_without_any_object_is_ordinary(make_sample: Make) -> None:
    batch = collate([make_sample(), make_sample()])
    assert batch.targets.boxes.shape == (2, 0, 4)
    assert batch.targets.is_target.shape == (2, 0)


def test_targets_are_in_resized_and_truths_in_original_pixels(make_sample: Make) -> None:
    sample = make_sample((40, 60), [[6, 4, 30, 20]])
    batch = collate([resized(sample, 80, 1000)])
    assert batch.targets.boxes.tolist() == [[[12, 8, 60, 40]]]
    assert batch.ground_truths[0].boxes.tolist() == [[6, 4, 30, 20]]
    assert batch.ground_truths[0].areas.tolist() == [24 * 16]


def test_each_axis_has_its_own_scale_after_rounding(make_sample: Make) -> None:
    sample = make_sample((37, 61), [[0, 0, 61, 37]])
    batch = collate([resized(sample, 50, 1000)])
    height, width = batch.images.sizes[0].tolist()
    assert height / 37 != width / 61
    torch.testing.assert_close(
        batch.targets.boxes[0, 0], torch.tensor([0.0, 0.0, width, height]), rtol=0, atol=1e-4
    )


def test_truth_of_a_mirrored_picture_is_mirrored_in_original_pixels(make_sample: Make) -> None:
    batch = collate([resized(flip(make_sample((40, 60), [[6, 4, 30, 20]])), 80, 1000)])
    assert batch.ground_truths[0].boxes.tolist() == [[30, 4, 54, 20]]
    assert batch.targets.boxes.tolist() == [[[60, 8, 108, 40]]]


def test_proposals_are_scaled_padded_and_marked(make_sample: Make) -> None:
    batch = collate(
        [
            resized(make_sample((40, 60), proposals=[[0, 0, 6, 4], [2, 2, 3, 3]]), 80, 1000),
            make_sample((40, 60), proposals=[]),
        ]
    )
    proposals = batch.images.proposals
    assert proposals is not None
    assert proposals.boxes[0].tolist() == [[0, 0, 12, 8], [4, 4, 6, 6]]
    assert proposals.valid.tolist() == [[True, True], [False, False]]
    assert proposals.scores.tolist() == [[1, 1], [0, 0]]


def test_samples_without_proposals_make_a_batch_without(make_sample: Make) -> None:
    assert collate([make_sample()]).images.proposals is None


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_proposals_may_be_all_there_are(make_sample: Make, count: int) -> None:
    boxes = [[0, 0, 6, 4], [2, 2, 3, 3], [0, 0, 60, 40]][:count]
    proposals = collate([make_sample((40, 60), proposals=boxes)]).images.proposals
    assert proposals is not None
    assert proposals.boxes.shape == (1, count, 4)
    assert proposals.valid.all()


def test_proposals_for_some_images_only_are_refused_by_name(make_sample: Make) -> None:
    with pytest.raises(ValueError, match="Images lost have no proposals"):
        collate([make_sample(proposals=[]), make_sample(image_id="lost")])


def test_moving_a_batch_leaves_the_truths_where_they_are(make_sample: Make) -> None:
    batch = collate([make_sample(boxes=[[0, 0, 1, 1]], proposals=[[0, 0, 1, 1]])])
    moved = batch.to("meta")
    assert isinstance(moved, DetectionBatch)
    assert moved.images.proposals is not None
    for tensor in (moved.images.pixels, moved.targets.boxes, moved.images.proposals.boxes):
        assert tensor.device.type == "meta"
    assert moved.ground_truths[0].boxes.device.type == "cpu"
    assert moved.image_ids == ("a",)
    assert len(moved) == 1
