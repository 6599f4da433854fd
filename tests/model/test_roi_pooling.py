"""Four ways to pool a RoI, against torchvision and written-out loops."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool

from rcnn.model.roi_pooling import PoolingSettings, assign_levels, crop, pool_levels, pool_rois
from rcnn.settings import SettingsError

Boxes = Callable[..., Tensor]
KINDS = [
    PoolingSettings(kind="roi_pool"),
    PoolingSettings(),
    PoolingSettings(sampling_ratio=0, aligned=True),
    PoolingSettings(kind="crop"),
    PoolingSettings(kind="crop", crop_max=True),
]
PYRAMID = PoolingSettings(kind="pyramid")


@pytest.mark.parametrize("size", [7, 3])
def test_roi_pool_equals_torchvision(random_boxes: Boxes, size: int) -> None:
    features, rois = torch.randn(2, 5, 9, 12), random_boxes(0, 2, 20, extent=140.0)
    pooled = pool_rois([features], [16], rois, PoolingSettings(kind="roi_pool", size=size))
    assert_close(pooled, roi_pool(features, list(rois), size, spatial_scale=1 / 16))


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_equals_torchvision(
    random_boxes: Boxes, sampling_ratio: int, aligned: bool
) -> None:
    features, rois = torch.randn(2, 5, 9, 12), random_boxes(1, 2, 20, extent=140.0)
    settings = PoolingSettings(sampling_ratio=sampling_ratio, aligned=aligned)
    pooled = pool_rois([features], [16], rois, settings)
    expected = roi_align(features, list(rois), 7, 1 / 16, sampling_ratio or -1, aligned=aligned)
    assert_close(pooled, expected)


@pytest.mark.parametrize("aligned", [False, True])
def test_published_roi_align(geometry: dict[str, Any], aligned: bool) -> None:
    case = geometry["roi_align"]
    features = torch.arange(25.0).view(1, 1, 5, 5)
    settings = PoolingSettings(size=case["out"], sampling_ratio=0, aligned=aligned)
    pooled = pool_rois([features], [case["scale"]], torch.tensor([[case["box"]]]).float(), settings)
    expected = torch.tensor(case[f"aligned_{str(aligned).lower()}"]).float()
    assert_close(pooled[0, 0], expected)


def test_published_roi_align_of_an_empty_box() -> None:
    features = torch.arange(25.0).view(1, 1, 5, 5).requires_grad_()
    settings = PoolingSettings(size=7, sampling_ratio=0, aligned=True)
    pooled = pool_rois([features], [1], torch.tensor([[[3.0, 4.0, 5.0, 4.0]]]), settings)
    assert not pooled.any()
    (gradient,) = torch.autograd.grad(pooled.sum(), features)
    assert not gradient.any()


def _bins(start: int, length: int, size: int, cells: int) -> list[range]:
    """The cells of each of ``size`` bins over ``length`` cells from ``start``."""
    return [
        range(
            min(max(start + math.floor(k * length / size), 0), cells),
            min(max(start + math.ceil((k + 1) * length / size), 0), cells),
        )
        for k in range(size)
    ]


def _naive_roi_pool(features: Tensor, roi: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Maximum of every bin of one RoI (in cells), and how often each cell is one, summed."""
    channels, height, width = features.shape
    x1, y1, x2, y2 = (math.floor(value + 0.5) for value in roi.tolist())
    pooled = torch.zeros(channels, size, size, dtype=features.dtype)
    winners = torch.zeros_like(features)
    for channel in range(channels):
        for i, rows in enumerate(_bins(y1, max(y2 - y1 + 1, 1), size, height)):
            for j, columns in enumerate(_bins(x1, max(x2 - x1 + 1, 1), size, width)):
                cells = [(features[channel, y, x].item(), y, x) for y in rows for x in columns]
                if cells:
                    best, y, x = max(cells)
                    pooled[channel, i, j] = best
                    winners[channel, y, x] += 1
    return pooled, winners


def test_gradient_of_roi_pool_accumulates_over_overlapping_rois(random_boxes: Boxes) -> None:
    """Fast R-CNN, equation 4: every RoI adds to the cells that are its maxima."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 2, 9, 11, dtype=torch.float64, generator=generator)
    rois = random_boxes(2, 1, 12, extent=9.0).double() * 16
    settings = PoolingSettings(kind="roi_pool", size=3)
    pooled = pool_rois([features.requires_grad_()], [16], rois, settings)
    (gradient,) = torch.autograd.grad(pooled.sum(), features)
    expected = torch.zeros_like(gradient)
    for k, roi in enumerate(rois[0] / 16):
        maximum, winners = _naive_roi_pool(features[0].detach(), roi, 3)
        assert_close(pooled[k], maximum)
        expected[0] += winners
    assert_close(gradient, expected)
    assert expected.max() >= 3  # cells that several RoIs share


def test_every_roi_is_taken_from_its_own_image(random_boxes: Boxes) -> None:
    features = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None].expand(3, 4, 6, 6).contiguous()
    rois = random_boxes(3, 3, 5, extent=60.0) + torch.tensor([0.0, 0.0, 30.0, 30.0])
    for settings in KINDS:
        pooled = pool_rois([features], [16], rois, settings).view(3, 5, 4, 7, 7)
        for image in range(3):
            inner = pooled[image][..., 0, 0]
            assert_close(inner, torch.full_like(inner, image + 1.0), atol=1e-4, rtol=0.0)


def test_the_paper_s_pyramid_has_50_cells() -> None:
    assert PYRAMID.cells == 50
    assert PoolingSettings(kind="pyramid", bins=(4, 2)).cells == 20
    assert PoolingSettings(kind="roi_pool", bins=(4, 2)).cells == 49


@pytest.mark.parametrize("bins", [(6, 3, 2, 1), (1,), (2, 5)])
def test_a_pyramid_is_several_roi_poolings_in_a_column(
    random_boxes: Boxes, bins: tuple[int, ...]
) -> None:
    """SPP-net, section 2.2: in each bin the maximum, the cells of the first grid first."""
    features, rois = torch.randn(2, 5, 9, 12), random_boxes(0, 2, 20, extent=140.0)
    settings = PoolingSettings(kind="pyramid", bins=bins)
    pooled = pool_rois([features], [16], rois, settings)
    assert pooled.shape == (40, 5, settings.cells, 1)
    grids = pooled[..., 0].split([side**2 for side in bins], dim=2)
    for side, grid in zip(bins, grids, strict=True):
        expected = roi_pool(features, list(rois), side, spatial_scale=1 / 16)
        assert_close(grid.unflatten(2, (side, side)), expected)


def test_the_one_bin_of_a_pyramid_is_the_maximum_of_the_roi() -> None:
    features = torch.randn(1, 4, 8, 8)
    roi = torch.tensor([[[32.0, 16.0, 95.0, 63.0]]])  # cells 2..6 across, 1..4 down
    pooled = pool_rois([features], [16], roi, PYRAMID)
    assert_close(pooled[0, :, -1, 0], features[0, :, 1:5, 2:7].amax(dim=(1, 2)))


@pytest.mark.parametrize("levels", [1, 3])
def test_no_rois_give_no_pyramid(levels: int) -> None:
    features = [torch.randn(2, 3, 16 // 2**k, 16 // 2**k) for k in range(levels)]
    pooled = pool_rois(features, [4, 8, 16][:levels], torch.zeros(2, 0, 4), PYRAMID)
    assert pooled.shape == (0, 3, 50, 1)


def test_crop_of_a_plane_by_hand() -> None:
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    plane = (x + 10 * y)[None, None]
    pooled = crop(plane, torch.tensor([[1.0, 2.0, 4.0, 3.0]]), torch.tensor([0]), size=3)
    columns = torch.tensor([1.0, 2.5, 4.0])
    rows = torch.tensor([20.0, 25.0, 30.0])
    assert_close(pooled[0, 0], rows[:, None] + columns, atol=1e-4, rtol=0.0)
    # 2S x 2S places, the largest of each 2 x 2 lies at its lower right
    largest = crop(plane, torch.tensor([[1.0, 2.0, 6.0, 4.5]]), torch.tensor([0]), 3, pool_max=True)
    assert_close(
        largest[0, 0],
        torch.tensor([25.0, 35.0, 45.0])[:, None] + torch.tensor([2.0, 4.0, 6.0]),
        atol=1e-4,
        rtol=0.0,
    )


@pytest.mark.parametrize("pool_max", [False, True])
def test_crop_equals_an_affine_grid_for_each_roi(random_boxes: Boxes, pool_max: bool) -> None:
    """As seed document 002 has it: theta from the corners, then grid_sample."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 4, 9, 13, generator=generator)
    rois = random_boxes(4, 30, extent=1.0) * torch.tensor([12.0, 8.0, 12.0, 8.0])
    images = torch.randint(3, (30,), generator=generator)
    ours = crop(features, rois, images, 5, pool_max=pool_max)
    side = 10 if pool_max else 5
    for k in range(30):
        x1, y1, x2, y2 = rois[k].tolist()
        theta = torch.tensor(
            [
                [(x2 - x1) / 12, 0.0, (x1 + x2 - 12) / 12],
                [0.0, (y2 - y1) / 8, (y1 + y2 - 8) / 8],
            ]
        )
        grid = F.affine_grid(theta[None], [1, 4, side, side], align_corners=True)
        image = features[images[k] : images[k] + 1]
        expected = F.grid_sample(image, grid, align_corners=True, padding_mode="border")
        if pool_max:
            expected = F.max_pool2d(expected, 2)
        assert_close(ours[k], expected[0], atol=1e-4, rtol=1e-4)


def test_crop_beyond_the_border_repeats_it_and_never_reads_the_next_image() -> None:
    features = torch.zeros(2, 1, 4, 4)
    features[0, 0, :, 3] = 5.0  # last column of the first image
    features[1] = 1000.0
    roi = torch.tensor([[2.0, 1.0, 8.0, 9.0]])
    pooled = crop(features, roi, torch.tensor([0]), size=3)
    assert_close(pooled[0, 0], torch.tensor([0.0, 5.0, 5.0]).expand(3, 3), atol=1e-2, rtol=0.0)


@pytest.mark.parametrize("pool_max", [False, True])
def test_crop_is_differentiable_in_features_and_rois(pool_max: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 2, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    rois = torch.tensor(
        [[0.3, 0.4, 3.7, 2.8], [1.2, 0.6, 4.6, 3.3], [2.1, 1.9, 2.8, 2.3]], dtype=torch.float64
    ).requires_grad_()
    images = torch.tensor([0, 1, 1])

    def pooled(features: Tensor, rois: Tensor) -> Tensor:
        return crop(features, rois, images, 2, pool_max=pool_max)

    assert torch.autograd.gradcheck(pooled, (features, rois))


def test_a_map_of_one_cell_can_be_cropped() -> None:
    pooled = crop(
        torch.full((1, 2, 1, 1), 3.0), torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([0]), 7
    )
    assert torch.equal(pooled, torch.full((1, 2, 7, 7), 3.0))


@pytest.mark.parametrize("settings", [*KINDS, PYRAMID])
def test_a_roi_without_area_is_finite(settings: PoolingSettings) -> None:
    """Unused places of a sample are such RoIs."""
    features = torch.randn(2, 3, 6, 6, requires_grad=True)
    rois = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [20.0, 20.0, 20.0, 60.0]]]).expand(2, -1, -1)
    pooled = pool_rois([features], [16], rois, settings)
    assert pooled.isfinite().all()
    (gradient,) = torch.autograd.grad(pooled.sum(), features)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("levels", [1, 3])
def test_no_rois_give_no_features(settings: PoolingSettings, levels: int) -> None:
    features = [
        torch.randn(2, 3, 16 // 2**k, 16 // 2**k, requires_grad=True) for k in range(levels)
    ]
    pooled = pool_rois(features, [4, 8, 16][:levels], torch.zeros(2, 0, 4), settings)
    assert pooled.shape == (0, 3, 7, 7)


def test_level_of_a_roi_by_hand() -> None:
    sides = torch.tensor([1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 4000.0, 0.0])
    rois = torch.stack([torch.zeros(9), torch.zeros(9), sides, sides], dim=1)
    levels = assign_levels(rois, [4, 8, 16, 32], PoolingSettings())
    # 224 pixels belong to level 4, stride 16
    assert levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0]
    smaller = PoolingSettings(canonical_size=112.0)
    assert assign_levels(rois, [4, 8, 16, 32], smaller).tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 0]
    assert assign_levels(rois[:5], [8, 16], PoolingSettings()).tolist() == [0, 0, 0, 0, 1]


def _oracle(levels: int, sampling_ratio: int) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign([str(k) for k in range(levels)], 7, sampling_ratio)


def test_levels_equal_torchvision(random_boxes: Boxes) -> None:
    rois = torch.cat(
        [
            random_boxes(5, 500, extent=1000.0),
            torch.tensor(
                [[10.0, 10.0, 10 + side, 10 + side] for side in (56.0, 112.0, 224.0, 448.0)]
            ),
        ]
    )
    oracle = _oracle(4, 2)
    shapes = {str(k): torch.zeros(1, 1, 256 // 2**k, 256 // 2**k) for k in range(4)}
    oracle(shapes, [rois], [(1024, 1024)])
    assert oracle.map_levels is not None
    expected = oracle.map_levels([rois])
    assert torch.equal(assign_levels(rois, [4, 8, 16, 32], PoolingSettings()), expected)
    assert len(expected.unique()) == 4


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_pooling_from_a_pyramid_equals_torchvision(
    random_boxes: Boxes, sampling_ratio: int
) -> None:
    features = [torch.randn(2, 3, 128 // 2**k, 160 // 2**k) for k in range(4)]
    rois = random_boxes(6, 2, 40, extent=500.0)
    rois[1, 30:] = 0.0  # padding
    expected = _oracle(4, sampling_ratio)(
        {str(k): level for k, level in enumerate(features)}, list(rois), [(512, 640)] * 2
    )
    settings = PoolingSettings(sampling_ratio=sampling_ratio)
    assert_close(pool_rois(features, [4, 8, 16, 32], rois, settings), expected)


@pytest.mark.parametrize("settings", [*KINDS, PYRAMID])
def test_every_kind_pools_from_a_pyramid(settings: PoolingSettings, random_boxes: Boxes) -> None:
    features = [torch.randn(2, 3, 64 // 2**k, 64 // 2**k, requires_grad=True) for k in range(3)]
    strides, rois = [4, 8, 16], random_boxes(7, 2, 12, extent=256.0)
    settings = replace(settings, canonical_size=120.0)
    pooled = pool_rois(features, strides, rois, settings)
    levels = assign_levels(rois.flatten(0, 1), strides, settings)
    assert len(levels.unique()) == 3
    for k, level in enumerate(levels.tolist()):
        image = k // 12
        alone = pool_rois(
            [features[level][image : image + 1]],
            [strides[level]],
            rois[image : image + 1, k % 12 : k % 12 + 1],
            settings,
        )
        assert_close(pooled[k], alone[0], atol=1e-4, rtol=1e-4)
    gradients = torch.autograd.grad(pooled.sum(), features)
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("settings", KINDS)
def test_without_a_look_at_the_levels_a_pyramid_is_pooled_alike(
    settings: PoolingSettings, random_boxes: Boxes
) -> None:
    """A GPU is not asked which RoIs belong to a level: all pass all of them."""
    rois = random_boxes(8, 40, extent=256.0)
    rois[-2:] = 0.0  # unused places
    images = torch.arange(2).repeat_interleave(20)
    weights = torch.randn(40, 3, settings.size, settings.size)
    results = []
    for look in (True, False):
        generator = torch.Generator().manual_seed(0)
        features = [
            torch.randn(2, 3, 64 // 2**k, 64 // 2**k, generator=generator).requires_grad_()
            for k in range(3)
        ]
        some = replace(settings, canonical_size=120.0)
        pooled = pool_levels(features, [4, 8, 16], rois, images, some, look=look)
        gradients = torch.autograd.grad((pooled * weights).sum(), features)
        results.append([pooled, *gradients])
    for looked, blind in zip(*results, strict=True):
        assert looked.any()
        assert_close(blind, looked)


@pytest.mark.parametrize("settings", [*KINDS, PYRAMID])
@pytest.mark.parametrize("levels", [1, 2])
def test_half_precision_features_are_pooled_where_the_roi_is(
    settings: PoolingSettings, levels: int
) -> None:
    """In bfloat16 the coordinate 905.3 would become 904 or 908."""
    generator = torch.Generator().manual_seed(3)
    features = [
        torch.randn(2, 3, 64, 64 // 2**k, generator=generator).bfloat16() for k in range(levels)
    ]
    rois = torch.tensor([[[905.3, 870.2, 990.7, 1001.9]]] * 2)
    pooled = pool_rois(features, [16, 32][:levels], rois, settings)
    assert pooled.dtype == torch.bfloat16
    full = pool_rois([level.float() for level in features], [16, 32][:levels], rois, settings)
    assert_close(pooled, full.bfloat16())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"size": 0}, "size"),
        ({"bins": ()}, "bins"),
        ({"bins": (3, 0)}, "bins"),
        ({"sampling_ratio": -1}, "sampling_ratio"),
        ({"canonical_size": 0.0}, "canonical_size"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=f"^{key}="):
        PoolingSettings(**changes)
