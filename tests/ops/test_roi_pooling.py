"""Pooling of RoIs against torchvision and published numbers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import MultiScaleRoIAlign

from rcnn.ops.images import resize
from rcnn.ops.roi_pooling import (
    assign_levels,
    crop,
    roi_align,
    roi_pool,
    warp_regions,
    with_context,
)
from tests.ops.inputs import GEOMETRY, random_boxes


def numbers(count: int) -> Tensor:
    """The index of the first image, for each RoI."""
    return torch.zeros(count, dtype=torch.long)


class TestRoIPool:
    def test_two_rois_with_the_same_maximum_by_hand(self) -> None:
        """The gradients of all RoIs add up at the cell that is a maximum (equation 4)."""
        features = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
        features[..., 1, 1] = 5.0
        features.requires_grad_()
        rois = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 3.0, 3.0]])
        pooled = roi_pool(features, 16 * rois.double(), numbers(3), 1, 16)
        assert pooled.flatten().tolist() == [5.0, 5.0, 0.0]
        (pooled.flatten() * torch.tensor([2.0, 3.0, 7.0])).sum().backward()
        expected = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
        expected[..., 1, 1], expected[..., 2, 2] = 2 + 3, 7  # the first of equal cells
        assert_close(features.grad, expected)

    @pytest.mark.parametrize("size", [7, 3])
    def test_it_equals_torchvision(self, size: int) -> None:
        features, rois = torch.randn(2, 5, 9, 12), random_boxes(0, 2, 20, extent=140.0)
        images = torch.arange(2).repeat_interleave(20)
        expected = torchvision.ops.roi_pool(features, list(rois), size, spatial_scale=1 / 16)
        assert_close(roi_pool(features, rois.flatten(0, 1), images, size, 16), expected)


class TestRoIAlign:
    """Values and gradients of its kernel are tested beside it, tests/kernels/test_roi_align_cpu."""

    @pytest.mark.parametrize("aligned", [False, True])
    @pytest.mark.parametrize("ratio", [0, 2])
    def test_it_equals_torchvision(self, ratio: int, aligned: bool) -> None:
        features, rois = torch.randn(2, 5, 9, 12), random_boxes(0, 2, 20, extent=140.0)
        images = torch.arange(2).repeat_interleave(20)
        how = 1 / 16, ratio or -1, aligned
        expected = torchvision.ops.roi_align(features, list(rois), 7, *how)
        assert_close(
            roi_align(features, rois.flatten(0, 1), images, 7, 16, ratio, aligned), expected
        )

    def test_an_adaptive_number_of_samples_has_no_gradient_in_the_rois(self) -> None:
        rois = torch.tensor([[0.0, 0.0, 30.0, 30.0]]).requires_grad_()
        with pytest.raises(ValueError, match="sampling_ratio=0"):
            roi_align(torch.zeros(1, 1, 4, 4), rois, numbers(1), 3, 16, 0, False)

    @pytest.mark.parametrize("aligned", [False, True])
    def test_published_values(self, aligned: bool) -> None:
        case = GEOMETRY["roi_align"]
        features, roi = torch.arange(25.0).view(1, 1, 5, 5), torch.tensor([case["box"]]).float()
        pooled = roi_align(features, roi, numbers(1), case["out"], case["scale"], 0, aligned)
        expected = torch.tensor(case[f"aligned_{str(aligned).lower()}"]).float()
        assert_close(pooled[0, 0], expected)

    def test_published_values_of_an_empty_box(self) -> None:
        features = torch.arange(25.0).view(1, 1, 5, 5).requires_grad_()
        pooled = roi_align(features, torch.tensor([[3.0, 4, 5, 4]]), numbers(1), 7, 1, 0, True)
        assert not pooled.any()
        (gradient,) = torch.autograd.grad(pooled.sum(), features)
        assert not gradient.any()


class TestCrop:
    def test_a_plane_by_hand(self) -> None:
        y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
        plane = (x + 10 * y)[None, None]
        near: dict[str, Any] = {"atol": 1e-4, "rtol": 0.0}
        pooled = crop(plane, torch.tensor([[1.0, 2.0, 4.0, 3.0]]), numbers(1), size=3)
        expected = torch.tensor([20.0, 25.0, 30.0])[:, None] + torch.tensor([1.0, 2.5, 4.0])
        assert_close(pooled[0, 0], expected, **near)
        # of 2S x 2S points, the largest of each 2 x 2 lies at its lower right
        pooled = crop(plane, torch.tensor([[1.0, 2.0, 6.0, 4.5]]), numbers(1), 3, pool_max=True)
        expected = torch.tensor([25.0, 35.0, 45.0])[:, None] + torch.tensor([2.0, 4.0, 6.0])
        assert_close(pooled[0, 0], expected, **near)

    @pytest.mark.parametrize("pool_max", [False, True])
    def test_it_equals_an_affine_grid_for_each_roi(self, pool_max: bool) -> None:
        """As seed document 002 has it: theta from the corners, then grid_sample."""
        generator = torch.Generator().manual_seed(1)
        features = torch.randn(3, 4, 9, 13, generator=generator)
        rois = random_boxes(4, 30, extent=1.0) * torch.tensor([12.0, 8.0, 12.0, 8.0])
        images = torch.randint(3, (30,), generator=generator)
        ours = crop(features, rois, images, 5, pool_max=pool_max)
        side = 10 if pool_max else 5
        for k in range(30):
            x1, y1, x2, y2 = rois[k].tolist()
            across, down = (x2 - x1) / 12, (y2 - y1) / 8
            theta = [[across, 0.0, (x1 + x2 - 12) / 12], [0.0, down, (y1 + y2 - 8) / 8]]
            grid = F.affine_grid(torch.tensor([theta]), [1, 4, side, side], align_corners=True)
            image = features[images[k] : images[k] + 1]
            expected = F.grid_sample(image, grid, align_corners=True, padding_mode="border")
            expected = F.max_pool2d(expected, 2) if pool_max else expected
            assert_close(ours[k], expected[0], atol=1e-4, rtol=1e-4)

    def test_beyond_the_border_it_repeats_the_last_cell_and_never_reads_the_next_image(
        self,
    ) -> None:
        features = torch.zeros(2, 1, 4, 4)
        features[0, 0, :, 3] = 5.0  # last column of the first image
        features[1] = 1000.0
        pooled = crop(features, torch.tensor([[2.0, 1.0, 8.0, 9.0]]), numbers(1), size=3)
        expected = torch.tensor([0.0, 5.0, 5.0]).expand(3, 3)
        assert_close(pooled[0, 0], expected, atol=1e-2, rtol=0.0)

    @pytest.mark.parametrize("pool_max", [False, True])
    def test_it_is_differentiable_in_features_and_rois(self, pool_max: bool) -> None:
        generator = torch.Generator().manual_seed(2)
        features = torch.randn(2, 2, 5, 6, dtype=torch.float64, generator=generator)
        rois = torch.tensor([[0.3, 0.4, 3.7, 2.8], [1.2, 0.6, 4.6, 3.3], [2.1, 1.9, 2.8, 2.3]])
        inputs = features.requires_grad_(), rois.double().requires_grad_()
        images = torch.tensor([0, 1, 1])
        assert torch.autograd.gradcheck(lambda f, r: crop(f, r, images, 2, pool_max), inputs)

    def test_a_map_of_one_cell(self) -> None:
        cell, roi = torch.full((1, 2, 1, 1), 3.0), torch.tensor([[0.0, 0.0, 0.5, 0.5]])
        assert torch.equal(crop(cell, roi, numbers(1), 7), torch.full((1, 2, 7, 7), 3.0))


class TestLevels:
    def test_level_of_a_roi_by_hand(self) -> None:
        sides = torch.tensor([1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 4000.0, 0.0])
        rois = torch.stack([torch.zeros(9), torch.zeros(9), sides, sides], dim=1)
        strides = [4, 8, 16, 32]
        # 224 pixels belong to level 4, stride 16
        assert assign_levels(rois, strides, 224.0, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0]
        assert assign_levels(rois, strides, 112.0, 4).tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 0]
        assert assign_levels(rois, strides, 224.0, 3).tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 0]
        assert assign_levels(rois[:5], [8, 16], 224.0, 4).tolist() == [0, 0, 0, 0, 1]

    def test_levels_equal_torchvision(self) -> None:
        squares = torch.tensor([[10.0, 10, 10 + s, 10 + s] for s in (56.0, 112, 224, 448)])
        rois = torch.cat([random_boxes(5, 500, extent=1000.0), squares])
        oracle = MultiScaleRoIAlign([str(k) for k in range(4)], 7, 2)
        shapes = {str(k): torch.zeros(1, 1, 256 // 2**k, 256 // 2**k) for k in range(4)}
        oracle(shapes, [rois], [(1024, 1024)])
        expected = oracle.map_levels([rois])
        assert torch.equal(assign_levels(rois, [4, 8, 16, 32], 224.0, 4), expected)
        assert len(expected.unique()) == 4


class TestWarp:
    @staticmethod
    def warp(image: Tensor, rois: list[list[float]], size: int, context: int = 0) -> Tensor:
        """Warp regions of one image."""
        boxes = torch.tensor(rois).reshape(-1, 4)
        return warp_regions(image[None], boxes, numbers(len(boxes)), size, context)

    @staticmethod
    def smooth(height: int, width: int) -> Tensor:
        """A picture of waves, none shorter than 40 pixels."""
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return torch.stack([(x / 9).sin(), (y / 7).cos(), (x / 11 + y / 13).sin()])

    def test_sixteen_pixels_of_context_at_227_by_hand(self) -> None:
        boxes = torch.tensor([[100.0, 50.0, 295.0, 245.0], [0.0, 0.0, 390.0, 19.5]])
        # 195 pixels are what 16 + 16 leave of 227
        expected = torch.tensor([[84.0, 34.0, 311.0, 261.0], [-32.0, -1.6, 422.0, 21.1]])
        assert_close(with_context(boxes, 227, 16), expected)
        assert_close(with_context(boxes, 227, 0), boxes)

    def test_the_region_fills_what_the_context_leaves(self) -> None:
        image = torch.zeros(3, 90, 120)
        image[:, 20:50, 30:90] = 1.0  # twice as wide as it is high
        warped = self.warp(image, [[30.0, 20.0, 90.0, 50.0]], size=40, context=5)
        assert_close(warped, F.pad(torch.ones(1, 3, 30, 30), (5, 5, 5, 5)), atol=1e-5, rtol=0.0)

    @pytest.mark.parametrize(("down", "across"), [(1, 1), (2, 3), (5, 4)])
    def test_every_pixel_is_the_mean_of_its_share_of_the_region(
        self, down: int, across: int
    ) -> None:
        image, height, width = torch.randn(3, 60, 60), 10 * down, 10 * across
        warped = self.warp(image, [[7.0, 9.0, 7.0 + width, 9.0 + height]], 10)
        region = image[None, :, 9 : 9 + height, 7 : 7 + width]
        assert_close(warped, F.avg_pool2d(region, (down, across)), atol=1e-5, rtol=0.0)

    def test_a_small_region_is_enlarged_bilinearly(self) -> None:
        image = torch.randn(3, 12, 15)
        whole = self.warp(image, [[0.0, 0.0, 15.0, 12.0]], size=60)
        expected = F.interpolate(image[None], (60, 60), mode="bilinear")
        # nearer to the border than half a pixel the image ends in zeros
        inner = (..., slice(3, -3), slice(3, -3))
        assert_close(whole[inner], expected[inner], atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("roi", [[20, 30, 260, 150], [10, 5, 290, 195], [100, 40, 164, 168]])
    def test_values_are_those_of_a_resize_with_filter(self, roi: list[int]) -> None:
        image, (x1, y1, x2, y2) = self.smooth(200, 300), roi
        warped = self.warp(image, [[float(side) for side in roi]], size=64)[0]
        expected = resize(image[:, y1:y2, x1:x2], (64, 64), antialias=True)
        inner = (..., slice(2, -2), slice(2, -2))  # a crop knows nothing of what is around it
        assert_close(warped[inner], expected[inner], atol=0.03, rtol=0.0)

    def test_what_lies_outside_of_the_image_is_the_mean_colour(self) -> None:
        warped = self.warp(torch.ones(3, 40, 40), [[0.0, 0.0, 40.0, 40.0]], size=40, context=8)
        # within half a pixel of its border the image fades into what is around it
        assert_close(warped[..., 8:-8, 8:-8], torch.ones(1, 3, 24, 24), atol=0.1, rtol=0.0)
        assert_close(warped[..., 9:-9, 9:-9], torch.ones(1, 3, 22, 22))
        outside = warped.clone()
        outside[..., 7:-7, 7:-7] = 0.0
        assert not outside.any()
        assert not self.warp(torch.ones(3, 40, 40), [[100.0, 100.0, 140.0, 140.0]], size=8).any()

    def test_padding_of_the_batch_changes_nothing(self) -> None:
        image, rois = torch.randn(1, 3, 40, 50), random_boxes(0, 30, extent=40.0)
        padded = F.pad(image, (0, 14, 0, 24))
        alone = warp_regions(image, rois, numbers(30), 16, 3)
        assert_close(warp_regions(padded, rois, numbers(30), 16, 3), alone)

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_every_region_is_cut_out_of_its_own_image(self, count: int) -> None:
        shades = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None]
        rois = torch.tensor([[2.0, 2.0, 18.0, 18.0]]).expand(count, -1)
        images = torch.tensor([2, 0, 1])[:count]
        warped = warp_regions(shades.repeat(1, 3, 20, 20), rois, images, 8, 0)
        assert warped.shape == (count, 3, 8, 8)
        assert warped[:, 0, 4, 4].tolist() == [3.0, 1.0, 2.0][:count]

    def test_half_precision_does_not_move_the_region(self) -> None:
        """In bfloat16 the coordinate 905.3 would become 904 or 908."""
        image, roi = self.smooth(64, 1000).bfloat16(), [[905.3, 10.0, 925.7, 60.0]]
        warped = self.warp(image, roi, size=16)
        assert warped.dtype == torch.bfloat16
        assert_close(warped, self.warp(image.float(), roi, size=16).bfloat16())
