"""RoIAlign's values and gradients are torchvision's; when it is chosen is in tests/ops."""

import pytest
import torch
import torchvision.ops
from torch import Tensor
from torch.testing import assert_close

from rcnn.kernels.roi_align_cpu import align_rois


def some_rois(count: int, generator: torch.Generator) -> Tensor:
    """Return RoIs that lie in, at and beyond the border of a map of 9 x 12 cells of 16 pixels."""
    corners = torch.rand(count, 2, generator=generator) * 260 - 40
    sides = torch.rand(count, 2, generator=generator) * 120
    return torch.cat([corners, corners + sides], dim=1)


def oracle(features: Tensor, rois: Tensor, images: Tensor, *how: int | float | bool) -> Tensor:
    listed = torch.cat([images[:, None].to(rois), rois], dim=1)
    pooled: Tensor = torchvision.ops.roi_align(features, listed, *how)
    return pooled


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_values_and_gradients_are_those_of_torchvision(
    count: int, ratio: int, aligned: bool, layout: torch.memory_format, generator: torch.Generator
) -> None:
    rois = some_rois(count, generator).double()
    images = torch.randint(3, (count,), generator=generator)
    features = torch.randn(3, 5, 9, 12, generator=generator, dtype=torch.float64)
    ours = features.contiguous(memory_format=layout).requires_grad_()
    theirs = features.detach().clone().requires_grad_()
    pooled = align_rois(ours, rois, images, 7, 16, ratio, aligned)
    expected = oracle(theirs, rois, images, 7, 1 / 16, ratio, aligned)
    assert_close(pooled, expected)
    weights = torch.randn(expected.shape, generator=generator)
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (2, 2)])
def test_maps_of_a_single_row_or_column(size: tuple[int, int], generator: torch.Generator) -> None:
    features = torch.randn(1, 2, *size, generator=generator, dtype=torch.float64)
    rois, images = some_rois(20, generator).double(), torch.zeros(20).long()
    pooled = align_rois(features, rois, images, 3, 16, 2, False)
    assert_close(pooled, oracle(features, rois, images, 3, 1 / 16, 2))


def test_single_precision_rounds_as_torchvision_does(generator: torch.Generator) -> None:
    features = torch.randn(1, 4, 100, 120, generator=generator)
    rois, images = some_rois(40, generator) * 8, torch.zeros(40).long()
    pooled = align_rois(features, rois, images, 7, 16, 2, False)
    assert_close(pooled, oracle(features, rois, images, 7, 1 / 16, 2))


@pytest.mark.parametrize("aligned", [False, True])
def test_it_is_differentiable_in_features_and_rois(
    aligned: bool, generator: torch.Generator
) -> None:
    features = torch.randn(2, 2, 5, 6, generator=generator, dtype=torch.float64)
    rois = torch.tensor(
        [[3.3, 5.1, 51.7, 40.2], [11.9, 2.2, 70.4, 64.6], [-9.1, 3.3, 33.3, 99.9]],
        dtype=torch.float64,
    )
    inputs, images = (features.requires_grad_(), rois.requires_grad_()), torch.tensor([0, 0, 1])
    assert torch.autograd.gradcheck(
        lambda f, r: align_rois(f, r, images, 3, 16, 2, aligned), inputs
    )
