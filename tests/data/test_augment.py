"""Augmentation, mirroring and resizing: pixels, boxes, flags and proposals move together."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from rcnn.data import (
    AspectGroupedBatchSampler,
    AugmentSettings,
    DataError,
    DetectionBatch,
    DetectionDataset,
    EvaluationTransform,
    Sample,
    ShapesDataset,
    TrainingTransform,
    TransformedDataset,
    collate,
    flip,
    resized,
)
from rcnn.data.augment import crop, paste, shrink
from rcnn.ops.boxes import area, intersection
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


# --- windows, smaller pictures and pasted pieces ------------------------------------------------


def test_crop_cuts_boxes_and_areas_and_drops_what_is_hardly_visible(make_sample: Make) -> None:
    objects = [
        [10, 5, 20, 15],  # inside
        [0, 0, 10, 10],  # a quarter in the window
        [34, 15, 54, 25],  # 1 of 20 columns
        [33, 15, 53, 25],  # 2 of 20: a tenth remains
        [40, 30, 50, 40],  # outside
    ]
    sample = make_sample((40, 60), objects, proposals=objects)
    window = crop(sample, top=5, left=5, height=30, width=30)
    assert window.original_size == (30, 30)
    assert window.image.equal(sample.image[:, 5:35, 5:35])
    expected = [[5, 0, 15, 10], [0, 0, 5, 5], [28, 10, 30, 20]]
    assert window.ground_truth.boxes.tolist() == expected
    assert window.ground_truth.labels.tolist() == [1, 2, 4]
    assert window.ground_truth.difficult.tolist() == [False, True, False]
    assert window.ground_truth.areas.tolist() == [100, 25, 20]
    assert window.proposals is not None
    assert window.proposals.tolist() == expected


def test_crowds_keep_their_flag_and_masks_their_share_of_the_area(make_sample: Make) -> None:
    sample = make_sample((40, 60), BOXES)
    areas = torch.tensor([2000.0, 60, 5])  # of segmentations, which are smaller than boxes
    sample = replace(sample, ground_truth=replace(sample.ground_truth, areas=areas))
    window = crop(sample, 0, 0, 40, 15)
    assert window.ground_truth.boxes.tolist() == [[0, 0, 15, 40], [10, 5, 15, 15], [3, 2, 4, 9]]
    assert window.ground_truth.areas.tolist() == [500, 30, 5]
    assert window.ground_truth.crowd.tolist() == [False, False, True]


def test_a_window_beyond_the_picture_is_grey_there(make_sample: Make) -> None:
    sample = make_sample((40, 60), [[10, 5, 20, 15]])
    window = crop(sample, top=-3, left=-7, height=50, width=80)
    assert window.image[:, 3:43, 7:67].equal(sample.image)
    outside = window.image.clone()
    outside[:, 3:43, 7:67] = 128
    assert (outside == 128).all()
    assert window.ground_truth.boxes.tolist() == [[17, 8, 27, 18]]


def test_shrinking_scales_boxes_proposals_and_areas(make_sample: Make) -> None:
    sample = shrink(make_sample((40, 60), [[10, 4, 20, 16]], proposals=[[0, 0, 60, 40]]), 0.5)
    assert sample.original_size == (20, 30)
    assert sample.image.shape == (3, 20, 30)
    assert sample.ground_truth.boxes.tolist() == [[5, 2, 10, 8]]
    assert sample.ground_truth.areas.tolist() == [30]
    assert sample.proposals is not None
    assert sample.proposals.tolist() == [[0, 0, 30, 20]]


def test_a_piece_is_pasted_with_its_objects_and_proposals(make_sample: Make) -> None:
    sample = make_sample((40, 60), BOXES, proposals=[[0, 0, 9, 9]])
    piece = make_sample((10, 20), [[0, 0, 20, 10], [1, 2, 3, 4]], proposals=[[1, 1, 2, 2]])
    before = sample.image.clone()
    both = paste(sample, piece, top=30, left=40)
    assert both.original_size == (40, 60)
    assert both.image[:, 30:40, 40:60].equal(piece.image)
    assert both.image[:, :30].equal(sample.image[:, :30])
    assert sample.image.equal(before)
    assert both.ground_truth.boxes.tolist() == [*BOXES, [40, 30, 60, 40], [41, 32, 43, 34]]
    assert both.ground_truth.labels.tolist() == [1, 2, 3, 1, 2]
    assert both.ground_truth.difficult.tolist() == [False, True, False, False, True]
    assert both.ground_truth.areas.tolist() == [2400, 100, 7, 200, 4]
    assert both.proposals is not None
    assert both.proposals.tolist() == [[0, 0, 9, 9], [41, 31, 42, 32]]


# --- what is drawn ------------------------------------------------------------------------------

ALL = AugmentSettings(
    scale_jitter=(0.3, 2.0),
    crop=0.5,
    copy_paste=4,
    colour_jitter=0.4,
    blur=0.5,
    noise=9.0,
)


class Proposed(ShapesDataset):
    """The proposals of a picture are its objects."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return replace(sample, proposals=sample.ground_truth.boxes.clone())


SHAPES = Proposed(6, size=48, max_objects=5)


def transform(augment: AugmentSettings, dataset: DetectionDataset = SHAPES) -> TrainingTransform:
    return TrainingTransform(augment, 32, 48, dataset=dataset)


def drawn(augment: AugmentSettings, sample: Sample, count: int, seed: int = 0) -> list[Sample]:
    return [
        transform(augment)(sample, torch.Generator().manual_seed(seed + number))
        for number in range(count)
    ]


def equal(one: Sample, other: Sample) -> bool:
    return (
        one.image.equal(other.image)
        and one.original_size == other.original_size
        and one.ground_truth.boxes.equal(other.ground_truth.boxes)
        and one.ground_truth.labels.equal(other.ground_truth.labels)
    )


@pytest.mark.parametrize(
    "augment",
    [
        AugmentSettings(scale_jitter=(0.1, 2.0)),
        AugmentSettings(crop=1.0, min_crop=0.2),
        AugmentSettings(copy_paste=5),
        ALL,
    ],
)
def test_boxes_stay_inside_with_their_proposals_and_an_object_remains(
    augment: AugmentSettings,
) -> None:
    for index in range(len(SHAPES)):
        for sample in drawn(augment, SHAPES[index], 20, seed=100 * index):
            height, width = sample.original_size
            gt = sample.ground_truth
            assert 0 < len(gt) == len(gt.labels) == len(gt.areas) == len(gt.crowd)
            assert (gt.boxes[:, :2] >= 0).all()
            assert (gt.boxes[:, 2:] <= torch.tensor([width, height])).all()
            assert (gt.boxes[:, 2:] > gt.boxes[:, :2]).all()
            assert sample.proposals is not None
            assert sample.proposals.equal(gt.boxes)
            assert ((gt.labels >= 1) & (gt.labels <= 3)).all()
            assert gt.areas.min() > 0
            assert min(sample.image.shape[1:]) <= 32
            assert sample.image.dtype == torch.uint8


def test_a_picture_without_objects_is_augmented_too(make_sample: Make) -> None:
    empty = make_sample((48, 48), proposals=[])
    sizes = {sample.original_size for sample in drawn(ALL, empty, 20)}
    assert len(sizes) > 3
    only_empty = ShapesDataset(2, size=48, empty_share=1.0)
    sample = transform(AugmentSettings(copy_paste=3), only_empty)(empty, torch.Generator())
    assert len(sample.ground_truth) == 0


def test_one_seed_gives_one_sample_and_leaves_everything_else_alone() -> None:
    sample = SHAPES[0]
    image, boxes = sample.image.clone(), sample.ground_truth.boxes.clone()
    before = torch.random.get_rng_state()
    assert all(map(equal, drawn(ALL, sample, 10), drawn(ALL, sample, 10)))
    assert not any(map(equal, drawn(ALL, sample, 10), drawn(ALL, sample, 10, seed=50)))
    assert torch.random.get_rng_state().equal(before)
    assert sample.image.equal(image)
    assert sample.ground_truth.boxes.equal(boxes)


def test_no_other_setting_changes_mirroring_and_size() -> None:
    sides = (16, 24, 32)
    sample = SHAPES[0]
    plain = drawn(AugmentSettings(0.5, sides), sample, 20)
    noisy = drawn(AugmentSettings(0.5, sides, colour_jitter=0.5, noise=5.0), sample, 20)
    for one, other in zip(plain, noisy, strict=True):
        assert one.image.shape == other.image.shape
        assert one.ground_truth.boxes.equal(other.ground_truth.boxes)
        assert not one.image.equal(other.image)
    assert {one.image.shape[1] for one in plain} == set(sides)


def test_plain_settings_are_mirroring_and_sizes_alone() -> None:
    strong = replace(ALL, flip=0.25, shorter_sides=(16, 32))
    assert strong.plain() == AugmentSettings(0.25, (16, 32))
    assert AugmentSettings().plain() == AugmentSettings()


@pytest.mark.parametrize(
    ("probability", "low", "high"), [(0.0, 0, 0), (0.25, 30, 70), (1.0, 200, 200)]
)
def test_mirroring_has_its_probability(probability: float, low: int, high: int) -> None:
    sample = SHAPES[0]
    boxes = flip(sample).ground_truth.boxes
    mirrored = [one.ground_truth.boxes for one in drawn(AugmentSettings(probability), sample, 200)]
    assert low <= sum(each.equal(boxes) for each in mirrored) <= high


def test_scale_jitter_changes_size_within_its_range(make_sample: Make) -> None:
    sample = make_sample((48, 48), [[20, 20, 28, 28]])
    small = drawn(AugmentSettings(scale_jitter=(0.25, 0.5)), sample, 30)
    sides = torch.cat(
        [one.ground_truth.boxes[:, 2] - one.ground_truth.boxes[:, 0] for one in small]
    )
    assert {one.original_size for one in small} == {(48, 48)}
    assert 2 <= sides.min() < 2.5 < 3.5 < sides.max() <= 4
    large = drawn(AugmentSettings(scale_jitter=(2.0, 4.0)), sample, 30)
    heights = [one.original_size[0] for one in large]
    assert 12 <= min(heights) < 15 < 21 < max(heights) <= 24


def test_pasted_objects_show_their_own_pixels_and_hide_at_most_half_of_another() -> None:
    augment = AugmentSettings(flip=0.0, copy_paste=5)
    donors = ShapesDataset(6, seed=1, size=48, max_objects=1)
    originals = [donors[index] for index in range(len(donors))]
    added = 0
    for sample in map(SHAPES.__getitem__, range(len(SHAPES))):
        count = len(sample.ground_truth)
        for seed in range(20):
            pasted = TrainingTransform(augment, 48, 48, dataset=donors)(
                sample, torch.Generator().manual_seed(seed)
            )
            gt = pasted.ground_truth
            assert gt.boxes[:count].equal(sample.ground_truth.boxes)
            new = gt.boxes[count:]
            hidden = intersection(gt.boxes[:count], new).sum(1) / area(gt.boxes[:count])
            assert hidden.max() <= 0.5 + 1e-6
            for (x1, y1, x2, y2), label in zip(new.int().tolist(), gt.labels[count:], strict=True):
                shown = pasted.image[:, y1:y2, x1:x2]
                assert any(
                    shown.equal(other.image[:, top:bottom, left:right])
                    for other in originals
                    for (left, top, right, bottom), kind in zip(
                        other.ground_truth.boxes.int().tolist(),
                        other.ground_truth.labels,
                        strict=True,
                    )
                    if kind == label
                )
            added += len(new)
    assert added > 30


def test_difficult_objects_and_crowds_are_not_pasted(make_sample: Make) -> None:
    class Three(ShapesDataset):
        def __getitem__(self, index: int) -> Sample:
            return make_sample((40, 60), [[0, 0, 6, 6], [20, 0, 30, 9], [40, 20, 50, 30]])

    draw = transform(AugmentSettings(copy_paste=5), Three(1))
    empty = make_sample((40, 60))
    samples = [draw(empty, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert {label for one in samples for label in one.ground_truth.labels.tolist()} == {1}


def test_a_broken_picture_gives_nothing_to_paste_if_such_are_skipped() -> None:
    class Broken(ShapesDataset):
        def __getitem__(self, index: int) -> Sample:
            raise DataError("broken")

    broken = Broken(3, size=48)
    draw = transform(AugmentSettings(copy_paste=5), broken)
    with pytest.raises(DataError, match="broken"):
        draw(SHAPES[0], torch.Generator())
    broken.problems.on_error = "skip"
    assert len(draw(SHAPES[0], torch.Generator()).ground_truth) == len(SHAPES[0].ground_truth)


def test_colours_blur_and_noise_change_pixels_only(make_sample: Make) -> None:
    grey = replace(
        make_sample((48, 48), [[1, 2, 30, 40]]), image=torch.full((3, 48, 48), 100).byte()
    )
    brightness = [
        one.image.float().mean() for one in drawn(AugmentSettings(colour_jitter=0.3), grey, 40)
    ]
    assert 69 <= min(brightness) < 80 < 120 < max(brightness) <= 131
    noisy = [one.image.float() for one in drawn(AugmentSettings(noise=10.0), grey, 40)]
    deviations = torch.stack([image.std() for image in noisy])
    assert deviations.min() < 2
    assert 8 < deviations.max() < 11
    sample = SHAPES[0]
    sharp = drawn(AugmentSettings(), sample, 40)
    blurred = drawn(AugmentSettings(blur=0.5), sample, 40)
    changed = [not a.image.equal(b.image) for a, b in zip(sharp, blurred, strict=True)]
    assert 8 < sum(changed) < 32
    assert all(
        a.ground_truth.boxes.equal(b.ground_truth.boxes)
        for a, b in zip(sharp, blurred, strict=True)
    )


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_persistent_workers_give_what_the_main_process_gives_and_see_the_last_epochs() -> None:
    def batches(workers: int) -> list[DetectionBatch]:
        transformed = TransformedDataset(SHAPES, transform(ALL), transform(ALL.plain()))
        sampler = AspectGroupedBatchSampler(SHAPES.aspect_ratios, 2, seed=0)
        sampler.augmented_batches = 4  # of three in an epoch
        loader = DataLoader(
            transformed,
            batch_sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=collate,
        )
        return [batch for _ in range(2) for batch in loader]

    alone, shared = batches(0), batches(2)
    for number, (one, other) in enumerate(zip(alone, shared, strict=True)):
        assert one.image_ids == other.image_ids
        assert one.images.pixels.equal(other.images.pixels)
        assert one.targets.boxes.equal(other.targets.boxes)
        counts = [len(ground_truth) for ground_truth in one.ground_truths]
        indices = [list(SHAPES.image_ids).index(name) for name in one.image_ids]
        if number >= 4:
            assert counts == [len(SHAPES.ground_truth(index)) for index in indices]
            assert one.images.original_sizes.tolist() == [[48, 48]] * 2


def test_evaluation_transform_draws_nothing(make_sample: Make, generator: torch.Generator) -> None:
    before, sample = generator.get_state(), make_sample((4, 6), [[0, 0, 1, 1]])
    changed = EvaluationTransform(8, 100)(sample, generator)
    assert changed.image.shape == (3, 8, 12)
    assert changed.original is None
    assert changed.ground_truth.boxes.tolist() == [[0, 0, 1, 1]]
    assert generator.get_state().equal(before)
    kept = EvaluationTransform(8, 100, keep_original=True)(sample, generator).original
    assert kept is sample.image


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flip", 2.0),
        ("shorter_sides", ()),
        ("shorter_sides", (0,)),
        ("scale_jitter", (2.0, 1.0)),
        ("scale_jitter", (0.0, 1.0)),
        ("min_crop", 0.0),
        ("copy_paste", -1),
        ("off_for_last", -1),
    ],
)
def test_impossible_settings_are_named(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=key):
        AugmentSettings(**{key: value})


def test_a_shorter_side_above_the_longer_one_is_named() -> None:
    with pytest.raises(SettingsError, match=r"longer_side=500.*600"):
        EvaluationTransform(600, 500)
    with pytest.raises(SettingsError, match=r"longer_side=500.*700"):
        TrainingTransform(AugmentSettings(shorter_sides=(300, 700)), 400, 500)
    with pytest.raises(SettingsError, match="shorter_side=0"):
        EvaluationTransform(shorter_side=0)


def test_pasting_needs_a_data_set() -> None:
    with pytest.raises(SettingsError, match="copy_paste=1"):
        TrainingTransform(AugmentSettings(copy_paste=1))
