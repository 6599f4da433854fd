"""RoIAlign's values are torchvision's, and so are the gradients of its own backward pass."""

import pytest
import torch
import torchvision.ops
from torch import Tensor
from torch.testing import assert_close

from rcnn.ops.roi_align import DENSE_CELLS, align_rois


def some_rois(count: int, generator: torch.Generator) -> Tensor:
    """Return RoIs that lie in, at and beyond the border of a map of 9 x 12 cells of 16 pixels."""
    corners = torch.rand(2, count, 2, generator=generator) * 260 - 40
    sides = torch.rand(2, count, 2, generator=generator) * 120
    return torch.cat([corners, corners + sides], dim=2)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_values_and_gradients_are_those_of_torchvision(
    count: int, ratio: int, aligned: bool, generator: torch.Generator
) -> None:
    rois = some_rois(count, generator)
    ours = torch.randn(2, 5, 9, 12, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    pooled = align_rois(ours, rois, 7, 1 / 16, ratio, aligned)
    expected = torchvision.ops.roi_align(theirs, list(rois), 7, 1 / 16, ratio, aligned)
    assert_close(pooled, expected)
    weights = torch.randn(expected.shape, generator=generator)
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_close(ours.grad, theirs.grad)


def test_the_backward_pass_agrees_with_finite_differences(generator: torch.Generator) -> None:
    features = torch.randn(1, 2, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    rois = torch.tensor([[[3.0, 5.0, 50.0, 40.0], [10.0, 0.0, 70.0, 64.0]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: align_rois(f, rois, 3, 1 / 16, 2), (features,))


def test_large_maps_and_adaptive_sampling_are_left_to_torchvision(
    generator: torch.Generator,
) -> None:
    large = torch.randn(1, 1, DENSE_CELLS // 10, 11, generator=generator).requires_grad_()
    small = torch.randn(1, 1, 9, 12, generator=generator).requires_grad_()
    rois = torch.tensor([[[0.0, 0.0, 90.0, 60.0]]])
    for features, ratio in ((large, 2), (small, 0)):
        pooled = align_rois(features, rois, 7, 1 / 16, ratio)
        assert_close(
            pooled, torchvision.ops.roi_align(features, list(rois), 7, 1 / 16, ratio or -1)
        )
        assert "RoIAlign" not in type(pooled.grad_fn).__name__
