"""Regions cut out of an image and warped to one size."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from rcnn.model.roi_pooling import WarpSettings, warp_regions, with_context
from rcnn.ops.images import resize
from rcnn.settings import SettingsError

Boxes = Callable[..., Tensor]


def warp(image: Tensor, rois: list[list[float]], size: int, context: int = 0) -> Tensor:
    """Warp regions of one image."""
    boxes = torch.tensor(rois).reshape(-1, 4)
    numbers = torch.zeros(len(boxes), dtype=torch.long)
    return warp_regions(image[None], boxes, numbers, WarpSettings(size, context))


def smooth(height: int, width: int) -> Tensor:
    """A picture of waves, none shorter than 40 pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([(x / 9).sin(), (y / 7).cos(), (x / 11 + y / 13).sin()])


def test_sixteen_pixels_of_context_at_227_by_hand() -> None:
    boxes = torch.tensor([[100.0, 50.0, 295.0, 245.0], [0.0, 0.0, 390.0, 19.5]])
    # 195 pixels are what 16 + 16 leave of 227
    expected = torch.tensor([[84.0, 34.0, 311.0, 261.0], [-32.0, -1.6, 422.0, 21.1]])
    assert_close(with_context(boxes, WarpSettings(227, 16)), expected)
    assert_close(with_context(boxes, WarpSettings(227, 0)), boxes)


def test_the_region_fills_what_the_context_leaves() -> None:
    image = torch.zeros(3, 90, 120)
    image[:, 20:50, 30:90] = 1.0  # twice as wide as it is high
    warped = warp(image, [[30.0, 20.0, 90.0, 50.0]], size=40, context=5)
    expected = F.pad(torch.ones(1, 3, 30, 30), (5, 5, 5, 5))
    assert_close(warped, expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(("down", "across"), [(1, 1), (2, 3), (5, 4)])
def test_every_pixel_is_the_mean_of_those_that_it_stands_for(down: int, across: int) -> None:
    image = torch.randn(3, 60, 60)
    roi = [7.0, 9.0, 7.0 + 10 * across, 9.0 + 10 * down]
    crop = image[None, :, 9 : 9 + 10 * down, 7 : 7 + 10 * across]
    assert_close(warp(image, [roi], 10), F.avg_pool2d(crop, (down, across)), atol=1e-5, rtol=0.0)


def test_a_small_region_is_enlarged_bilinearly() -> None:
    image = torch.randn(3, 12, 15)
    whole = warp(image, [[0.0, 0.0, 15.0, 12.0]], size=60)
    expected = F.interpolate(image[None], (60, 60), mode="bilinear")
    # nearer to the border than half a pixel the image ends in zeros
    inner = (..., slice(3, -3), slice(3, -3))
    assert_close(whole[inner], expected[inner], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "roi",
    [[20, 30, 260, 150], [10, 5, 290, 195], [100, 40, 164, 168], [40, 20, 70, 190]],
    ids=["wide", "nearly all", "high", "strip"],
)
def test_values_are_those_of_a_resize_with_filter(roi: list[int]) -> None:
    image, (x1, y1, x2, y2) = smooth(200, 300), roi
    warped = warp(image, [[float(side) for side in roi]], size=64)[0]
    expected = resize(image[:, y1:y2, x1:x2], (64, 64), antialias=True)
    inner = (..., slice(2, -2), slice(2, -2))  # a crop knows nothing of what is around it
    assert_close(warped[inner], expected[inner], atol=0.03, rtol=0.0)


def test_a_large_region_is_filtered_before_it_shrinks() -> None:
    board = (torch.arange(256)[:, None] + torch.arange(256)) % 2 * 2.0 - 1  # -1 and 1
    image = board.expand(3, -1, -1).contiguous()
    roi = [[3.0, 5.0, 250.0, 240.0]]  # by a factor that divides nothing
    assert warp(image, roi, size=50).abs().max() < 0.3
    unfiltered = resize(image[:, 5:240, 3:250], (50, 50), antialias=False)
    assert unfiltered.abs().max() > 0.8


def test_what_lies_outside_of_the_image_is_the_mean_colour() -> None:
    warped = warp(torch.ones(3, 40, 40), [[0.0, 0.0, 40.0, 40.0]], size=40, context=8)
    # within half a pixel of its border the image fades into what is around it
    assert_close(warped[..., 8:-8, 8:-8], torch.ones(1, 3, 24, 24), atol=0.1, rtol=0.0)
    assert_close(warped[..., 9:-9, 9:-9], torch.ones(1, 3, 22, 22))
    outside = warped.clone()
    outside[..., 7:-7, 7:-7] = 0.0
    assert not outside.any()
    far = warp(torch.ones(3, 40, 40), [[100.0, 100.0, 140.0, 140.0]], size=8)
    assert not far.any()


def test_padding_of_the_batch_changes_nothing(random_boxes: Boxes) -> None:
    image, settings = torch.randn(1, 3, 40, 50), WarpSettings(16, 3)
    rois, numbers = random_boxes(0, 30, extent=40.0), torch.zeros(30, dtype=torch.long)
    padded = F.pad(image, (0, 14, 0, 24))
    alone = warp_regions(image, rois, numbers, settings)
    assert_close(warp_regions(padded, rois, numbers, settings), alone)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_region_is_cut_out_of_its_own_image(count: int) -> None:
    images = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None].expand(3, 3, 20, 20).contiguous()
    rois = torch.tensor([[2.0, 2.0, 18.0, 18.0]]).expand(count, -1)
    numbers = torch.tensor([2, 0, 1])[:count]
    warped = warp_regions(images, rois, numbers, WarpSettings(8, 0))
    assert warped.shape == (count, 3, 8, 8)
    assert warped[:, 0, 4, 4].tolist() == [3.0, 1.0, 2.0][:count]


def test_half_precision_does_not_move_the_region() -> None:
    """In bfloat16 the coordinate 905.3 would become 904 or 908."""
    image = smooth(64, 1000).bfloat16()
    roi = [[905.3, 10.0, 925.7, 60.0]]
    warped = warp(image, roi, size=16)
    assert warped.dtype == torch.bfloat16
    assert_close(warped, warp(image.float(), roi, size=16).bfloat16())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"context": -1}, "context=-1"),
        ({"size": 32, "context": 16}, "context=16.*less than half of size=32"),
        ({"chunk": 0}, "chunk=0"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        WarpSettings(**changes)
