"""Which images make up which minibatch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data import AspectGroupedBatchSampler, EvaluationBatchSampler, Pick
from rcnn.settings import SettingsError


def ratios(wide: int, high: int) -> np.ndarray:
    mixed = np.array([1.5] * wide + [0.5] * high, dtype=np.float32)
    return np.random.default_rng(0).permutation(mixed)


def images(batches: list[list[Pick]]) -> list[list[int]]:
    return [[pick.image for pick in batch] for batch in batches]


def epoch(number: int, wide: int = 21, high: int = 12, batch_size: int = 2) -> list[list[Pick]]:
    sampler = AspectGroupedBatchSampler(ratios(wide, high), batch_size, seed=3)
    for _ in range(number):
        list(sampler)
    return list(sampler)


@given(
    wide=st.integers(0, 12),
    high=st.integers(0, 12),
    batch_size=st.integers(1, 4),
    world_size=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_training_shares_cover_the_data_in_equally_many_full_batches(
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


@given(
    wide=st.integers(0, 12),
    high=st.integers(0, 12),
    batch_size=st.integers(1, 4),
    world_size=st.integers(1, 4),
)
def test_evaluation_shares_partition_the_data(
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


def test_at_most_one_training_batch_mixes_wide_and_high() -> None:
    wide = ratios(21, 13) >= 1
    for number in range(5):
        mixed = [batch for batch in images(epoch(number, 21, 13)) if len(set(wide[batch])) > 1]
        assert len(mixed) <= 1


def test_at_most_one_evaluation_batch_mixes_wide_and_high() -> None:
    sampler = EvaluationBatchSampler(ratios(21, 13), 2)
    wide = ratios(21, 13) >= 1
    assert sum(len(set(wide[batch])) > 1 for batch in images(list(sampler))) == 1


def test_square_images_go_with_wide_ones() -> None:
    sampler = AspectGroupedBatchSampler(np.array([1.0, 2.0, 0.5, 0.4], dtype=np.float32), 2, seed=0)
    for _ in range(5):
        assert sorted(map(sorted, images(list(sampler)))) == [[0, 1], [2, 3]]


def test_without_grouping_wide_and_high_meet() -> None:
    wide = ratios(30, 30) >= 1
    sampler = AspectGroupedBatchSampler(ratios(30, 30), 2, seed=0, group=False)
    batches = images(list(sampler))
    assert sum(len(set(wide[batch])) > 1 for batch in batches) > 5
    assert sorted(image for batch in batches for image in batch) == list(range(60))


def test_batches_are_composed_anew_each_epoch() -> None:
    first, second = ({frozenset(batch) for batch in images(epoch(number))} for number in (0, 1))
    assert len(first & second) < 5


def test_wide_and_high_batches_come_in_mixed_order() -> None:
    wide = ratios(20, 20) >= 1
    kinds = [bool(wide[batch[0]]) for batch in images(epoch(0, 20, 20))]
    assert kinds not in (sorted(kinds), sorted(kinds, reverse=True))


def test_same_seed_and_epoch_give_the_same_batches() -> None:
    assert epoch(4) == epoch(4)


def test_each_pass_is_the_next_epoch() -> None:
    sampler = AspectGroupedBatchSampler(ratios(21, 12), 2, seed=3)
    assert list(sampler) == epoch(0)
    assert list(sampler) == epoch(1)
    assert epoch(0) != epoch(1)


def test_seeds_of_images_differ_between_images_and_epochs() -> None:
    first, second = (
        {pick.image: pick.seed for batch in epoch(number) for pick in batch} for number in (0, 1)
    )
    assert len(set(first.values()) | set(second.values())) == 2 * 33


def test_seed_of_an_image_does_not_hang_on_the_number_of_processes() -> None:
    alone = {pick.image: pick.seed for batch in epoch(0) for pick in batch}
    for rank in range(2):
        shared = AspectGroupedBatchSampler(ratios(21, 12), 2, seed=3, rank=rank, world_size=2)
        for batch in shared:
            for pick in batch:
                assert pick.seed == alone[pick.image]


def test_what_is_done_decides_where_a_pass_begins() -> None:
    done = [0]
    sampler = AspectGroupedBatchSampler(ratios(21, 12), 2, seed=3, batches_done=lambda: done[0])
    assert list(sampler) == epoch(0)
    assert list(sampler) == epoch(0)  # nobody has trained on them
    done[0] = len(sampler) + 5
    assert list(sampler) == epoch(1)[5:]
    done[0] = 2 * len(sampler)
    assert list(sampler) == epoch(2)


def test_where_a_pass_begins_is_asked_when_it_begins() -> None:
    """A loader draws batches ahead; what is done changes in the meantime."""
    done = [5]
    sampler = AspectGroupedBatchSampler(ratios(21, 12), 2, seed=3, batches_done=lambda: done[0])
    batches = iter(sampler)
    done[0] = 9
    assert list(batches) == epoch(0)[5:]


def test_fewer_images_than_places_are_drawn_again() -> None:
    sampler = AspectGroupedBatchSampler(ratios(1, 0), 4, seed=0)
    assert images(list(sampler)) == [[0, 0, 0, 0]]


def test_impossible_settings_are_named() -> None:
    with pytest.raises(SettingsError, match="rank=2"):
        EvaluationBatchSampler(ratios(2, 2), 2, rank=2, world_size=2)
    with pytest.raises(SettingsError, match="batch_size=0"):
        AspectGroupedBatchSampler(ratios(2, 2), 0, seed=0)
