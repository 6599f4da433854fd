"""Truncated SVD against hand-worked matrices, numpy's routine and the paper's arithmetic."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rcnn.ops.svd import decompose, lost_energy, rank_for_energy, truncated_svd, weight_count
from rcnn.settings import SettingsError

# Rows along (3, 4) / 5 and (-4, 3) / 5, so that the singular values are those of the diagonal.
TURN = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
HAND = TURN @ torch.diag(torch.tensor([10.0, 5.0])) @ torch.eye(2, 3)


def matrix(seed: int, outputs: int, inputs: int) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def test_a_hand_worked_matrix_loses_its_smaller_value() -> None:
    found = decompose(HAND)
    torch.testing.assert_close(found.values, torch.tensor([10.0, 5.0]).double())
    first, second = found.truncated(1)
    # 10 times the first column of the turn, in the first row of the identity
    expected = torch.tensor([[6.0, 0.0, 0.0], [8.0, 0.0, 0.0]])
    torch.testing.assert_close(second @ first, expected)
    torch.testing.assert_close((HAND - second @ first).norm().item(), 5.0)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5), (1, 4)])
def test_full_rank_gives_the_matrix_back(shape: tuple[int, int]) -> None:
    weight = matrix(0, *shape)
    first, second = truncated_svd(weight, min(shape))
    assert (first.shape, second.shape) == ((min(shape), shape[1]), (shape[0], min(shape)))
    torch.testing.assert_close(second @ first, weight, rtol=0, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_the_error_at_every_rank_is_what_the_discarded_values_say(
    outputs: int, inputs: int, seed: int
) -> None:
    weight = matrix(seed, outputs, inputs)
    found = decompose(weight)
    errors = []
    for rank in range(1, len(found.values) + 1):
        first, second = found.truncated(rank)
        error = (weight - second @ first).norm().item()
        expected = found.values[rank:].square().sum().sqrt().item()
        assert error == pytest.approx(expected, abs=1e-5)
        errors.append(error)
    assert all(later <= error + 1e-6 for error, later in pairwise(errors))


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_singular_values_are_those_of_numpys_routine(shape: tuple[int, int]) -> None:
    weight = matrix(1, *shape)
    expected = np.linalg.svd(weight.numpy().astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(decompose(weight).values.numpy(), expected, rtol=1e-9)


def test_small_values_beside_large_ones_are_found() -> None:
    weight = torch.diag(torch.tensor([1e3, 1.0, 1e-3]))
    torch.testing.assert_close(
        decompose(weight).values, torch.tensor([1e3, 1.0, 1e-3]).double(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("rank", [0, 3])
def test_a_rank_that_the_matrix_does_not_have_is_an_error(rank: int) -> None:
    with pytest.raises(SettingsError, match=f"rank={rank} .* from 1 to 2"):
        truncated_svd(HAND, rank)


@pytest.mark.parametrize(("share", "rank"), [(0.01, 1), (0.79, 1), (0.81, 2), (0.97, 3), (1.0, 3)])
def test_energy_is_the_share_of_the_squares(share: float, rank: int) -> None:
    # squares 16, 3 and 1: after one value 80 %, after two 95 %
    assert rank_for_energy(torch.tensor([4.0, 3**0.5, 1.0]), share) == rank


def test_a_share_that_a_rank_keeps_exactly_needs_no_more() -> None:
    assert rank_for_energy(torch.tensor([3.0, 1.0]), 0.9) == 1


def test_lost_energy_runs_from_all_to_nothing() -> None:
    lost = lost_energy(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(lost, torch.tensor([1.0, 0.2, 0.0]).double())


def test_a_matrix_of_zeros_has_rank_one_for_any_share() -> None:
    assert rank_for_energy(decompose(torch.zeros(3, 4)).values, 0.9) == 1


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_out_of_range_is_an_error(share: float) -> None:
    with pytest.raises(SettingsError, match=f"energy={share}"):
        rank_for_energy(torch.ones(2), share)


def test_the_papers_ranks_leave_32_of_119_million_weights() -> None:
    fc6, fc7 = (7 * 7 * 512, 4096), (4096, 4096)
    assert weight_count(*fc6) + weight_count(*fc7) == 119_537_664
    assert weight_count(*fc6, rank=1024) + weight_count(*fc7, rank=256) == 31_981_568
