"""One limit of memory for several splits."""

import numpy as np

from rcnn.data import CacheBudget

SIZES = np.full((4, 2), 10, dtype=np.int32)  # 300 bytes each


def test_the_first_split_takes_what_it_needs_and_the_next_the_rest() -> None:
    budget = CacheBudget(1700)
    train = budget.cache("train", SIZES, (10,), 10, True)
    val = budget.cache("val", SIZES, (10,), 10, True)
    assert train is not None
    assert val is not None
    assert (len(train), len(val)) == (4, 1)
    assert budget.cache("train", SIZES, (10,), 10, True) is train


def test_a_split_that_is_resized_otherwise_starts_anew() -> None:
    budget = CacheBudget(1700)
    train = budget.cache("train", SIZES, (10,), 10, True)
    other = budget.cache("train", SIZES, (5,), 10, True)
    assert other is not None
    assert other is not train
    assert other.size == 4 * 3 * 5 * 5


def test_originals_are_kept_where_several_sizes_are_made_of_them() -> None:
    for sides in ((), (5, 7)):
        cache = CacheBudget(1700).cache("train", SIZES, sides, 10, True)
        assert cache is not None
        assert cache.size == 4 * 300


def test_no_memory_is_no_cache() -> None:
    assert CacheBudget(0).cache("train", SIZES, (10,), 10, True) is None
