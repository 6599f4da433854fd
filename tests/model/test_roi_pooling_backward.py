"""RoI pooling's backward pass as Fast R-CNN, section 2.3, equation 4, writes it.

``dL/dx_i`` is the sum over RoIs r and outputs j of ``[i = i*(r, j)] dL/dy_rj``, where ``i*(r, j)``
is the cell that is the maximum of its bin.
"""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rcnn.model.roi_pooling import PoolingSettings, pool_rois

Boxes = Callable[..., Tensor]
Cell = tuple[int, int]


def cells_of_bins(roi: list[float], size: int, height: int, width: int) -> Iterator[list[Cell]]:
    """The cells of each bin of a RoI, which is in cells; neighbouring bins may share some."""
    x1, y1, x2, y2 = (math.floor(corner + 0.5) for corner in roi)
    high, wide = max(y2 - y1 + 1, 1) / size, max(x2 - x1 + 1, 1) / size
    for i in range(size):
        for j in range(size):
            rows = range(y1 + math.floor(i * high), y1 + math.ceil((i + 1) * high))
            columns = range(x1 + math.floor(j * wide), x1 + math.ceil((j + 1) * wide))
            yield [(y, x) for y in rows for x in columns if 0 <= y < height and 0 <= x < width]


def gradient_by_loops(features: Tensor, rois: Tensor, upstream: Tensor) -> Tensor:
    """Equation 4 for one image; of equal cells of a bin the first is its maximum."""
    channels, height, width = features.shape
    size = upstream.shape[-1]
    gradient = torch.zeros_like(features)
    for channel in range(channels):
        values = features[channel].tolist()
        for r, roi in enumerate(rois.tolist()):
            arrived = upstream[r, channel].flatten()
            for j, cells in enumerate(cells_of_bins(roi, size, height, width)):
                if cells:
                    y, x = max(cells, key=lambda cell: values[cell[0]][cell[1]])
                    gradient[channel, y, x] += arrived[j]
    return gradient


def gradients(features: Tensor, rois: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Of a random loss on the pooled RoIs of one image: autograd's, and the formula's."""
    features = features.clone().requires_grad_()
    settings = PoolingSettings(kind="roi_pool", size=size)
    pooled = pool_rois([features[None]], [16], 16 * rois[None], settings)
    upstream = torch.randn_like(pooled)
    (autograd,) = torch.autograd.grad(pooled, features, upstream)
    return autograd, gradient_by_loops(features.detach(), rois, upstream)


@pytest.mark.parametrize("count", [0, 1, 3, 20])
@pytest.mark.parametrize("size", [2, 7])
def test_the_gradient_accumulates_over_rois(random_boxes: Boxes, count: int, size: int) -> None:
    """With 7 x 7 bins most RoIs have fewer cells than bins, which then share them."""
    torch.manual_seed(count)
    features = torch.randn(3, 9, 11, dtype=torch.float64)
    rois = random_boxes(size, count, extent=9.0).double()
    autograd, formula = gradients(features, rois, size)
    assert_close(autograd, formula)


def test_of_equal_maxima_the_first_gets_it_all(random_boxes: Boxes) -> None:
    torch.manual_seed(0)
    features = torch.randint(3, (3, 9, 11)).double()  # most bins have several maxima
    autograd, formula = gradients(features, random_boxes(5, 20, extent=9.0).double(), 3)
    assert_close(autograd, formula)


def test_two_rois_with_the_same_maximum_by_hand() -> None:
    features = torch.zeros(1, 4, 4, dtype=torch.float64)
    features[0, 1, 1] = 5.0
    rois = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 3.0, 3.0]]).double()
    features.requires_grad_()
    settings = PoolingSettings(kind="roi_pool", size=1)
    pooled = pool_rois([features[None]], [16], 16 * rois[None], settings)
    assert pooled.flatten().tolist() == [5.0, 5.0, 0.0]
    (2 * pooled[0] + 3 * pooled[1] + 7 * pooled[2]).sum().backward()
    expected = torch.zeros(1, 4, 4, dtype=torch.float64)
    expected[0, 1, 1] = 5.0  # 2 + 3
    expected[0, 2, 2] = 7.0  # the first of equal cells
    assert features.grad is not None
    assert_close(features.grad, expected)


def test_bins_outside_of_the_image_send_nothing_back() -> None:
    features = torch.randn(2, 6, 6, dtype=torch.float64)
    rois = torch.tensor([[20.0, 20.0, 30.0, 30.0], [4.0, 4.0, 12.0, 9.0]]).double()
    autograd, formula = gradients(features, rois, 3)
    assert_close(autograd, formula)
    assert not autograd[:, :4].any()
    assert autograd.any()


def test_the_gradient_of_a_pyramid_is_the_sum_of_those_of_its_grids(random_boxes: Boxes) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 9, 11, dtype=torch.float64, requires_grad=True)
    rois = random_boxes(6, 12, extent=9.0).double()
    settings = PoolingSettings(kind="pyramid", bins=(3, 1))
    pooled = pool_rois([features[None]], [16], 16 * rois[None], settings)
    upstream = torch.randn_like(pooled)
    (autograd,) = torch.autograd.grad(pooled, features, upstream)
    fine, coarse = upstream[..., 0].split([9, 1], dim=2)
    expected = gradient_by_loops(features.detach(), rois, fine.unflatten(2, (3, 3)))
    expected += gradient_by_loops(features.detach(), rois, coarse.unflatten(2, (1, 1)))
    assert_close(autograd, expected)
