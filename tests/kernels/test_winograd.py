"""A convolution with fewer multiplications is the same convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from rcnn.kernels import winograd
from rcnn.kernels.winograd import convolve, tile_grid

FORMATS = [torch.contiguous_format, torch.channels_last]


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def with_gradients(cells: Tensor, weight: Tensor, bias: Tensor, *, ours: bool) -> list[Tensor]:
    """Return a convolution and its gradients."""
    inputs = [one.clone().requires_grad_() for one in (cells, weight, bias)]
    output = convolve(*inputs) if ours else F.conv2d(inputs[0], inputs[1], inputs[2], padding=1)
    weights = drawn(*output.shape).to(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, weights)]


def test_one_kernel_on_one_cell_is_a_product() -> None:
    weight = torch.arange(9.0).view(1, 1, 3, 3)
    # all but the middle of the kernel falls on zeros
    assert_close(convolve(torch.tensor([[[[5.0]]]]), weight), torch.tensor([[[[20.0]]]]))


def test_a_kernel_that_shifts_shifts() -> None:
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 2] = 1  # the cell to the right
    cells = torch.arange(12.0).view(1, 1, 3, 4)
    expected = torch.tensor([[[[1.0, 2, 3, 0], [5, 6, 7, 0], [9, 10, 11, 0]]]])
    assert_close(convolve(cells, weight), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [1, 5, 400])
@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    formats=st.tuples(st.sampled_from(FORMATS), st.sampled_from(FORMATS)),
)
def test_values_and_gradients_are_those_of_a_direct_sum(
    chunk: int,
    batch: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    formats: tuple[torch.memory_format, torch.memory_format],
) -> None:
    """However many tiles are looked at together, and wherever the last of them end."""
    inputs = (
        drawn(batch, channels[0], *size).contiguous(memory_format=formats[0]),
        drawn(channels[1], channels[0], 3, 3).contiguous(memory_format=formats[1]),
        drawn(channels[1]),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "CHUNK", chunk)
        ours, theirs = (with_gradients(*inputs, ours=own) for own in (True, False))
    assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_autograd_agrees_with_finite_differences() -> None:
    inputs = drawn(2, 2, 5, 3), drawn(3, 2, 3, 3), drawn(3)
    assert torch.autograd.gradcheck(convolve, [one.requires_grad_() for one in inputs])


@pytest.mark.parametrize("size", [(4, 8), (5, 3)])
def test_what_follows_may_change_the_result_in_place(size: tuple[int, int]) -> None:
    """As activations and sums of residual blocks do."""
    cells, weight = drawn(1, 2, *size).requires_grad_(), drawn(3, 2, 3, 3)
    in_place = convolve(cells, weight)
    in_place += 1
    in_place.relu_()
    expected = (F.conv2d(cells, weight, padding=1) + 1).relu()
    assert_close(in_place, expected)
    mine, other = (torch.autograd.grad(one.sum(), cells) for one in (in_place, expected))
    assert_close(mine, other)


def test_only_what_is_asked_for_is_differentiated() -> None:
    cells, weight = drawn(1, 2, 4, 4), drawn(3, 2, 3, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(convolve(cells, weight).sum(), weight)
    assert gradient.shape == weight.shape
    assert not convolve(cells, weight.detach()).requires_grad


def test_a_second_derivative_is_refused() -> None:
    cells = drawn(1, 1, 4, 4).requires_grad_()
    output = convolve(cells, drawn(1, 1, 3, 3)).square().sum()
    (first,) = torch.autograd.grad(output, cells, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_no_images_have_no_cells_and_gradients_of_zero() -> None:
    inputs = drawn(0, 2, 4, 4), drawn(3, 2, 3, 3), drawn(3)
    output, of_cells, of_weight, of_bias = with_gradients(*inputs, ours=True)
    assert output.shape == (0, 3, 4, 4)
    assert of_cells.shape == (0, 2, 4, 4)
    assert_close(of_weight, torch.zeros(3, 2, 3, 3, dtype=torch.float64))
    assert_close(of_bias, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("size", [(4, 4), (19, 25)])
def test_rounding_costs_little_in_single_precision(size: tuple[int, int]) -> None:
    """Each result and gradient is off by less than 5e-6 of the size of all, in the mean."""
    inputs = drawn(8, 256, *size).relu(), drawn(128, 256, 3, 3) / 48, drawn(128)
    exact = with_gradients(*inputs, ours=False)
    found = with_gradients(*[one.float() for one in inputs], ours=True)
    for mine, other in zip(found, exact, strict=True):
        error = (mine - other).square().mean().sqrt() / other.square().mean().sqrt()
        assert 0 <= error < 5e-6


def test_tiles_cover_every_image() -> None:
    assert tile_grid(torch.zeros(2, 3, 5, 8)) == (2, 2)
    assert tile_grid(torch.zeros(7, 3, 4, 4)) == (1, 1)
