"""Minibatches: which images, how a worker reads them, and how they become one batch."""

import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from rcnn.data import (
    AspectGroupedBatchSampler,
    AugmentSettings,
    DataError,
    DataWarning,
    DetectionBatch,
    EvaluationBatchSampler,
    EvaluationTransform,
    Sample,
    SampleIndex,
    ShapesDataset,
    TrainingTransform,
    TransformedDataset,
    VOCDataset,
    collate,
    flip,
    resized,
)
from rcnn.model.transform import ImageSettings, ImageTransform
from rcnn.ops.images import resize
from rcnn.settings import SettingsError
from rcnn.structures import TensorFields

Make = Callable[..., Sample]
Batches = list[list[SampleIndex]]
DESCRIPTORS = Path("/proc/self/fd")

# --- which images -----------------------------------------------------------------------------


def ratios(wide: int, high: int) -> np.ndarray:
    mixed = np.array([1.5] * wide + [0.5] * high, dtype=np.float32)
    return np.random.default_rng(0).permutation(mixed)


def images(batches: Batches) -> list[list[int]]:
    return [[index.image for index in batch] for batch in batches]


def mixed(batches: Batches, wide: np.ndarray) -> int:
    """How many minibatches have images of both orientations."""
    return sum(len(set(wide[batch])) > 1 for batch in images(batches))


def epoch(number: int, wide: int = 21, high: int = 12) -> Batches:
    sampler = AspectGroupedBatchSampler(ratios(wide, high), 2, seed=3)
    for _ in range(number):
        list(sampler)
    return list(sampler)


SETS = {
    "wide": st.integers(0, 12),
    "high": st.integers(0, 12),
    "batch_size": st.integers(1, 4),
    "world_size": st.integers(1, 3),
}


@given(**SETS, seed=st.integers(0, 5))
def test_training_covers_the_data_in_equally_many_full_batches_on_every_process(
    wide: int, high: int, batch_size: int, world_size: int, seed: int
) -> None:
    count = wide + high
    if count == 0:
        return
    shares = []
    for rank in range(world_size):
        sampler = AspectGroupedBatchSampler(
            ratios(wide, high), batch_size, seed=seed, rank=rank, world_size=world_size
        )
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    batches = [batch for share in shares for batch in images(share)]
    assert len({len(share) for share in shares}) == 1
    assert {len(batch) for batch in batches} == {batch_size}
    drawn = Counter(image for batch in batches for image in batch)
    assert set(drawn) == set(range(count))
    # No more is drawn twice than fills the last batch of each process.
    assert drawn.total() - count < batch_size * world_size
    assert max(drawn.values()) - min(drawn.values()) <= 1


@given(**SETS)
def test_evaluation_partitions_the_data(
    wide: int, high: int, batch_size: int, world_size: int
) -> None:
    shares = []
    for rank in range(world_size):
        sampler = EvaluationBatchSampler(
            ratios(wide, high), batch_size, rank=rank, world_size=world_size
        )
        batches = images(list(sampler))
        assert len(batches) == len(sampler)
        assert all(0 < len(batch) <= batch_size for batch in batches)
        shares.append([image for batch in batches for image in batch])
    assert sorted(image for share in shares for image in share) == list(range(wide + high))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_at_most_one_batch_mixes_wide_and_high() -> None:
    wide = ratios(21, 13) >= 1
    assert all(mixed(epoch(number, 21, 13), wide) <= 1 for number in range(5))
    assert mixed(list(EvaluationBatchSampler(ratios(21, 13), 2)), wide) == 1


def test_square_images_go_with_wide_ones() -> None:
    sampler = AspectGroupedBatchSampler(np.array([1.0, 2.0, 0.5, 0.4], dtype=np.float32), 2, seed=0)
    for _ in range(5):
        assert sorted(map(sorted, images(list(sampler)))) == [[0, 1], [2, 3]]


def test_without_grouping_wide_and_high_meet() -> None:
    sampler = AspectGroupedBatchSampler(ratios(30, 30), 2, seed=0, group=False)
    batches = list(sampler)
    assert mixed(batches, ratios(30, 30) >= 1) > 5
    assert sorted(image for batch in images(batches) for image in batch) == list(range(60))


def test_wide_and_high_batches_come_in_mixed_order() -> None:
    wide = ratios(20, 20) >= 1
    kinds = [bool(wide[batch[0]]) for batch in images(epoch(0, 20, 20))]
    assert kinds not in (sorted(kinds), sorted(kinds, reverse=True))


def test_each_pass_is_the_next_epoch_with_other_batches_and_other_seeds() -> None:
    sampler = AspectGroupedBatchSampler(ratios(21, 12), 2, seed=3)
    first, second = list(sampler), list(sampler)
    assert (first, second) == (epoch(0), epoch(1))
    composed = [{frozenset(batch) for batch in images(one)} for one in (first, second)]
    assert len(composed[0] & composed[1]) < 5
    seeds = {index.seed for one in (first, second) for batch in one for index in batch}
    assert len(seeds) == 2 * 33


def test_seed_of_an_image_does_not_depend_on_the_number_of_processes() -> None:
    alone = {index.image: index.seed for batch in epoch(0) for index in batch}
    for rank in range(2):
        shared = AspectGroupedBatchSampler(ratios(21, 12), 2, seed=3, rank=rank, world_size=2)
        assert all(index.seed == alone[index.image] for batch in shared for index in batch)


def test_what_is_done_decides_where_a_pass_begins() -> None:
    done = [0]
    sampler = AspectGroupedBatchSampler(ratios(21, 12), 2, seed=3, batches_done=lambda: done[0])
    assert list(sampler) == epoch(0)
    assert list(sampler) == epoch(0)  # nobody has trained on them
    done[0] = len(sampler) + 5
    batches = iter(sampler)
    done[0] = 9  # a loader draws batches ahead of the training
    assert list(batches) == epoch(1)[5:]


@pytest.mark.parametrize(("repeated", "count"), [(2, 2), (1, 1), (0.5, 8), (1.0, 17), (99, 17)])
def test_repeated_batches_are_the_first_of_the_first_epoch_in_every_pass(
    repeated: float, count: int
) -> None:
    done = [0]
    alone = AspectGroupedBatchSampler(ratios(21, 12), 2, seed=3, repeated=repeated)
    resumed = AspectGroupedBatchSampler(
        ratios(21, 12), 2, seed=3, repeated=repeated, batches_done=lambda: done[0]
    )
    for _ in range(3):
        assert list(alone) == list(resumed) == epoch(0)[:count]
        done[0] += count
    done[0] += count - 1
    assert list(resumed) == epoch(0)[count - 1 : count]


def test_a_batch_larger_than_the_data_repeats_images() -> None:
    assert images(list(AspectGroupedBatchSampler(ratios(1, 0), 4, seed=0))) == [[0, 0, 0, 0]]


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(SettingsError, match="batch_size=0"):
        EvaluationBatchSampler(ratios(2, 2), 0)
    with pytest.raises(SettingsError, match="batch_size=0"):
        AspectGroupedBatchSampler(ratios(2, 2), 0, seed=0)


def test_augmentation_ends_after_its_minibatches_in_every_process_and_resumed_run() -> None:
    for rank in range(2):
        sampler = AspectGroupedBatchSampler(ratios(9, 0), 2, seed=0, rank=rank, world_size=2)
        sampler.augmented_batches = 5  # of three in an epoch
        flags = [[{index.augmented for index in batch} for batch in sampler] for _ in range(3)]
        assert flags == [[{True}] * 3, [{True}, {True}, {False}], [{False}] * 3]
    resumed = AspectGroupedBatchSampler(ratios(12, 0), 2, seed=0, batches_done=lambda: 8)
    resumed.augmented_batches = 10  # two epochs of six are eight and four more
    assert [batch[0].augmented for batch in resumed] == [True, True, False, False]
    assert all(index.augmented for batch in epoch(0) for index in batch)


# --- how a worker reads them ------------------------------------------------------------------

TRANSFORM = TrainingTransform(AugmentSettings(shorter_sides=(32, 48, 64)), longer_side=100)


def loader(workers: int) -> DataLoader[Sample]:
    dataset = ShapesDataset(7, size=32)
    return DataLoader(
        TransformedDataset(dataset, TRANSFORM),
        batch_sampler=AspectGroupedBatchSampler(dataset.aspect_ratios, 2, seed=0),
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=partial(collate, multiple=16),
    )


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_persistent_workers_give_what_the_main_process_gives() -> None:
    alone, shared = ([b for _ in range(2) for b in one] for one in map(loader, (0, 2)))
    assert len(alone) == len(shared) == 8
    for one, other in zip(alone, shared, strict=True):
        assert one.image_ids == other.image_ids
        assert one.images.pixels.equal(other.images.pixels)
        assert one.targets.boxes.equal(other.targets.boxes)


def test_sample_depends_on_image_and_seed_only() -> None:
    dataset = TransformedDataset(ShapesDataset(3, size=32), TRANSFORM)
    assert len(dataset) == 3
    drawn = set()
    for seed in range(30):
        one, other = dataset[SampleIndex(1, seed)], dataset[SampleIndex(1, seed)]
        assert one.image.equal(other.image)
        assert one.ground_truth.boxes.equal(other.ground_truth.boxes)
        drawn.add((one.image.shape[1], one.ground_truth.boxes[0, 0].item()))
    assert len(drawn) == 6  # three sizes, mirrored or not


@pytest.fixture
def broken(write_voc: Callable[..., Path]) -> VOCDataset:
    """Images a, b, c, of which b and c are gone after the set was opened."""
    root = [write_voc(image_id) for image_id in "abc"][-1]
    dataset = VOCDataset(root, "train", ["dog"])
    for image_id in "bc":
        (root / "JPEGImages" / f"{image_id}.jpg").unlink()
    return dataset


def test_unreadable_image_is_an_error_unless_it_may_be_substituted(broken: VOCDataset) -> None:
    with pytest.raises(DataError, match=r"b\.jpg"):
        TransformedDataset(broken, EvaluationTransform(40, 100))[SampleIndex(1, 0)]
    dataset = TransformedDataset(broken, EvaluationTransform(40, 100), substitute=True)
    with pytest.warns(DataWarning) as caught:
        assert dataset[SampleIndex(1, 0)].image_id == "a"
    messages = [str(one.message) for one in caught]
    assert ["b.jpg" in messages[0], "c.jpg" in messages[1], len(messages)] == [True, True, 2]
    (broken.image_folder / "a.jpg").unlink()
    with warnings.catch_warnings(action="ignore"), pytest.raises(DataError, match="None of the 3"):
        dataset[SampleIndex(1, 0)]


# --- how they become one batch ----------------------------------------------------------------


def test_pictures_lie_at_the_top_left_of_a_padded_batch(make_sample: Make) -> None:
    wide, high = make_sample((40, 60)), make_sample((50, 30))
    batch = collate([wide, high], multiple=32)
    assert batch.images.pixels.shape == (2, 3, 64, 64)
    assert batch.images.sizes.tolist() == [[40, 60], [50, 30]]
    assert batch.images.original_sizes.tolist() == [[40, 60], [50, 30]]
    assert batch.images.pixels[0, :, :40, :60].equal(wide.image)
    assert batch.images.pixels[1, :, :50, :30].equal(high.image)
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
    assert batch.images.proposals is None
    empty = collate([make_sample(), make_sample()]).targets
    assert (empty.boxes.shape, empty.is_target.shape) == ((2, 0, 4), (2, 0))


def test_a_batch_with_original_pixels_shows_at_any_side_what_a_prediction_sees() -> None:
    """A picture larger than the detector's own scale has details that a larger scale shows."""
    sample = ShapesDataset(1, size=200)[0]
    detector = ImageTransform(ImageSettings(64, 256, test_scales=(64, 128)))
    transform = EvaluationTransform(64, 256, keep_original=True)
    loaded = collate([transform(sample, torch.Generator())], 32).images
    predicted = detector.batch([sample.image])
    for side in (64, 128, 256):
        ours, theirs = (detector.at_side(images, side) for images in (loaded, predicted))
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.pixels[0], resize(sample.image, (side, side)))
        assert ours.sizes.tolist() == theirs.sizes.tolist() == [[side, side]]
        assert ours.original_sizes.tolist() == [[200, 200]]


def test_targets_are_in_resized_and_ground_truths_in_original_pixels(make_sample: Make) -> None:
    sample = make_sample((40, 60), [[6, 4, 30, 20]])
    batch = collate([resized(sample, 80, 1000), resized(flip(sample), 80, 1000)])
    assert batch.targets.boxes.tolist() == [[[12, 8, 60, 40]], [[60, 8, 108, 40]]]
    assert batch.ground_truths[0].boxes.tolist() == [[6, 4, 30, 20]]
    assert batch.ground_truths[1].boxes.tolist() == [[30, 4, 54, 20]]
    assert batch.ground_truths[0].areas.tolist() == [24 * 16]


def test_each_axis_has_its_own_scale_after_rounding(make_sample: Make) -> None:
    batch = collate([resized(make_sample((37, 61), [[0, 0, 61, 37]]), 50, 1000)])
    height, width = batch.images.sizes[0].tolist()
    assert height / 37 != width / 61
    expected = torch.tensor([0.0, 0.0, width, height])
    torch.testing.assert_close(batch.targets.boxes[0, 0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_proposals_are_scaled_padded_and_marked(make_sample: Make, count: int) -> None:
    boxes = [[0, 0, 6, 4], [2, 2, 3, 3], [0, 0, 60, 40]]
    samples = [make_sample((40, 60), proposals=given) for given in (boxes[:count], boxes[:1])]
    proposals = collate([resized(samples[0], 80, 1000), samples[1]]).images.proposals
    assert proposals is not None
    most = max(count, 1)
    assert proposals.boxes.shape == (2, most, 4)
    assert proposals.boxes[0, :count].tolist() == [[2 * x for x in box] for box in boxes[:count]]
    assert proposals.valid.tolist() == [
        [k < count for k in range(most)],
        [k < 1 for k in range(most)],
    ]
    assert proposals.scores.equal(proposals.valid.float())


def test_proposals_for_some_images_only_are_refused_by_name(make_sample: Make) -> None:
    with pytest.raises(ValueError, match="Images lost have no proposals"):
        collate([make_sample(proposals=[]), make_sample(image_id="lost")])


def test_moving_a_batch_leaves_the_ground_truths_on_the_cpu(make_sample: Make) -> None:
    batch = collate([make_sample(boxes=[[0, 0, 1, 1]], proposals=[[0, 0, 1, 1]])])
    moved = batch.to("meta")
    assert isinstance(moved, DetectionBatch)
    assert moved.images.proposals is not None
    for tensor in (moved.images.pixels, moved.targets.boxes, moved.images.proposals.boxes):
        assert tensor.device.type == "meta"
    assert moved.ground_truths[0].boxes.device.type == "cpu"
    assert (moved.image_ids, len(moved)) == (("a",), 1)


def tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts: Iterable[object] = value if isinstance(value, tuple) else ()
    parts = vars(value).values() if isinstance(value, TensorFields) else parts
    return [tensor for part in parts for tensor in tensors(part)]


def test_a_batch_arrives_in_another_process_as_it_was_sent(make_sample: Make) -> None:
    boxes = [[1.0, 2, 30, 20], [4, 4, 8, 9], [0, 0, 5, 5]]
    batch = collate(
        [make_sample((200, 300), boxes[:n], boxes[: n + 1], image_id=str(n)) for n in (0, 1, 3)]
    )
    arrived = pickle.loads(bytes(ForkingPickler.dumps(batch)))
    assert isinstance(arrived, DetectionBatch)
    assert arrived.image_ids == batch.image_ids
    assert [len(ground_truth) for ground_truth in arrived.ground_truths] == [0, 1, 3]
    before, after = tensors(batch), tensors(arrived)
    assert len(before) == len(after) == 3 + 3 + 4 + 3 * 5
    for one, other in zip(before, after, strict=True):
        assert one.equal(other)
        assert one.dtype == other.dtype
        other.zero_()  # it can be written to


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="counts open files through /proc")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_kept_ground_truths_hold_no_file_descriptors() -> None:
    one = loader(workers=1)
    kept = [(batch.ground_truths, batch.targets) for batch in one]
    before = len(list(DESCRIPTORS.iterdir()))
    for _ in range(5):
        kept += [(batch.ground_truths, batch.targets) for batch in one]
    assert len(kept) == 24
    assert len(list(DESCRIPTORS.iterdir())) <= before + 4
