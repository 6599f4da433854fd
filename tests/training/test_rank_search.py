"""Ranks for a time, by costs that are given and by costs that are measured."""

import pytest
import torch
from torch import nn

from rcnn.settings import SettingsError
from rcnn.training.rank_search import LayerCost, measure_layer, ranks_for_seconds

# A second for each rank of fc6, half a second for each of fc7.
FC6 = LayerCost(whole=6.0, ranks=(1, 5), seconds=(1.0, 5.0))
FC7 = LayerCost(whole=3.0, ranks=(1, 5), seconds=(0.5, 2.5))
FLAT = torch.ones(6)
STEEP = torch.tensor([10.0, 1.0, 0.1, 0.01, 0.001, 0.0001])


def test_times_between_the_measured_ranks_lie_on_a_line() -> None:
    cost = LayerCost(whole=9.0, ranks=(1, 3, 5), seconds=(1.0, 2.0, 6.0))
    torch.testing.assert_close(cost.table(), torch.tensor([9.0, 1, 1.5, 2, 4, 6]).double())


def test_a_layer_whose_values_fall_off_gives_its_time_to_the_other() -> None:
    # fc6 loses 1/6 with each rank; fc7 has nearly everything in its first value.
    assert ranks_for_seconds((FLAT, FC6), (STEEP, FC7), 5.5) == (5, 1)
    # Now fc6 needs one rank alone, and the time is enough for the whole of fc7.
    assert ranks_for_seconds((STEEP, FC6), (FLAT, FC7), 5.0) == (2, 0)


def test_the_choice_is_the_best_of_all_pairs_within_the_time() -> None:
    values6, values7 = torch.tensor([3.0, 2, 2, 1, 1, 1]), torch.tensor([2.0, 2, 2, 1, 0, 0])

    def lost(values: torch.Tensor, rank: int) -> float:
        squares = values.square()
        return 0.0 if rank == 0 else float(squares[rank:].sum() / squares.sum())

    times6, times7 = FC6.table().tolist(), FC7.table().tolist()
    for limit in (1.5, 2.0, 3.2, 4.0, 5.9, 8.9):
        ranks = ranks_for_seconds((values6, FC6), (values7, FC7), limit)
        allowed = [
            lost(values6, first) + lost(values7, second)
            for first in range(6)
            for second in range(6)
            if times6[first] + times7[second] <= limit
        ]
        assert times6[ranks[0]] + times7[ranks[1]] <= limit
        chosen = lost(values6, ranks[0]) + lost(values7, ranks[1])
        assert chosen == pytest.approx(min(allowed), abs=1e-6)


def test_layers_that_are_fast_enough_need_no_compression() -> None:
    with pytest.raises(SettingsError, match=r"milliseconds=9000 .* take 9e\+03 ms .* no compr"):
        ranks_for_seconds((FLAT, FC6), (FLAT, FC7), 9.0)


def test_a_time_that_no_rank_reaches_is_an_error_with_the_least() -> None:
    with pytest.raises(SettingsError, match=r"milliseconds=1400 .* 1\.5e\+03 ms on this machine"):
        ranks_for_seconds((FLAT, FC6), (FLAT, FC7), 1.4)


@pytest.mark.parametrize(("inputs", "outputs"), [(40, 10), (10, 40), (2, 2)])
def test_a_layer_is_timed_up_to_the_rank_of_as_many_weights(inputs: int, outputs: int) -> None:
    cost = measure_layer(nn.Linear(inputs, outputs), rois=3, repeats=1)
    assert (cost.ranks[0], cost.ranks[-1]) == (1, max(inputs * outputs // (inputs + outputs), 2))
    assert len(cost.ranks) == len(cost.seconds)
    assert min(cost.seconds) > 0
    assert len(cost.table()) == cost.ranks[-1] + 1
