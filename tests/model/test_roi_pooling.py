"""RoI pooling behind one switch: four kinds, one level and several."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from rcnn.model.roi_pooling import PoolingSettings, RoIPooler
from rcnn.ops.roi_pooling import assign_levels
from tests.ops.inputs import random_boxes

KINDS = [
    PoolingSettings(kind="roi_pool"),
    PoolingSettings(),
    PoolingSettings(sampling_ratio=0, aligned=True),
    PoolingSettings(kind="crop"),
    PoolingSettings(kind="crop", crop_max=True),
]
PYRAMID = PoolingSettings(kind="pyramid")


def levels_of(count: int, seed: int = 0, side: int = 64, images: int = 2) -> list[Tensor]:
    """Features of a pyramid, each level half the size of the one before."""
    generator = torch.Generator().manual_seed(seed)
    sides = [side // 2**k for k in range(count)]
    return [torch.randn(images, 3, s, s, generator=generator).requires_grad_() for s in sides]


@pytest.mark.parametrize("settings", KINDS)
def test_every_roi_is_taken_from_its_own_image(settings: PoolingSettings) -> None:
    features = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None].repeat(1, 4, 6, 6)
    rois = random_boxes(3, 3, 5, extent=60.0) + torch.tensor([0.0, 0.0, 30.0, 30.0])
    pooled = RoIPooler(settings, [16])([features], rois).view(3, 5, 4, 7, 7)
    for image in range(3):
        inner = pooled[image][..., 0, 0]
        assert_close(inner, torch.full_like(inner, image + 1.0), atol=1e-4, rtol=0.0)


def test_the_paper_s_pyramid_has_50_cells() -> None:
    assert PYRAMID.cells == 50
    assert replace(PYRAMID, bins=(4, 2)).cells == 20
    assert PoolingSettings(kind="roi_pool", bins=(4, 2)).cells == 49


@pytest.mark.parametrize("bins", [(6, 3, 2, 1), (1,), (2, 5)])
def test_a_pyramid_is_several_roi_poolings_in_a_column(bins: tuple[int, ...]) -> None:
    """SPP-net, section 2.2: in each bin the maximum, the cells of the first grid first."""
    features = torch.randn(2, 5, 9, 12, requires_grad=True)
    rois, settings = random_boxes(0, 2, 20, extent=140.0), replace(PYRAMID, bins=bins)
    pooled = RoIPooler(settings, [16])([features], rois)
    assert pooled.shape == (40, 5, settings.cells, 1)
    grids = [roi_pool(features, list(rois), side, spatial_scale=1 / 16) for side in bins]
    expected = torch.cat([grid.flatten(2) for grid in grids], dim=2)[..., None]
    assert_close(pooled, expected)
    weights = torch.randn_like(pooled)
    ours, theirs = (torch.autograd.grad(one, features, weights) for one in (pooled, expected))
    assert_close(ours, theirs)


@pytest.mark.parametrize("settings", [*KINDS, PYRAMID])
def test_a_roi_without_area_is_finite(settings: PoolingSettings) -> None:
    """Unused slots of a sample hold such RoIs."""
    features = levels_of(1, side=6)
    rois = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [20.0, 20.0, 20.0, 60.0]]]).expand(2, -1, -1)
    pooled = RoIPooler(settings, [16])(features, rois)
    assert pooled.isfinite().all()
    (gradient,) = torch.autograd.grad(pooled.sum(), features)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("settings", [*KINDS, PYRAMID])
@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_rois(settings: PoolingSettings, levels: int, count: int) -> None:
    pooler = RoIPooler(settings, [4, 8, 16][:levels])
    pooled = pooler(levels_of(levels, side=16), random_boxes(0, 2, count, extent=64.0))
    assert pooled.shape == (2 * count, 3, *((50, 1) if settings == PYRAMID else (7, 7)))
    assert pooled.isfinite().all()


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_several_levels_equal_torchvision(sampling_ratio: int) -> None:
    features = [torch.randn(2, 3, 128 // 2**k, 160 // 2**k) for k in range(4)]
    rois = random_boxes(6, 2, 40, extent=500.0)
    rois[1, 30:] = 0.0  # padding
    oracle = MultiScaleRoIAlign([str(k) for k in range(4)], 7, sampling_ratio)
    named = {str(k): level for k, level in enumerate(features)}
    expected = oracle(named, list(rois), [(512, 640)] * 2)
    settings = PoolingSettings(sampling_ratio=sampling_ratio)
    assert_close(RoIPooler(settings, [4, 8, 16, 32])(features, rois), expected)


@pytest.mark.parametrize("settings", [*KINDS, PYRAMID])
def test_every_kind_pools_each_roi_from_its_level(settings: PoolingSettings) -> None:
    features, strides, rois = levels_of(3), [4, 8, 16], random_boxes(7, 2, 12, extent=256.0)
    settings = replace(settings, canonical_size=120.0)
    coarser = torch.randn(2, 3, 8, 8)  # a level that only the RPN reads
    pooled = RoIPooler(settings, strides)([*features, coarser], rois)
    levels = assign_levels(rois.flatten(0, 1), strides, 120.0, settings.canonical_level)
    assert len(levels.unique()) == 3
    for k, level in enumerate(levels.tolist()):
        image, index = slice(k // 12, k // 12 + 1), slice(k % 12, k % 12 + 1)
        pooler = RoIPooler(settings, [strides[level]])
        alone = pooler([features[level][image]], rois[image, index])
        assert_close(pooled[k], alone[0], atol=1e-4, rtol=1e-4)
    gradients = torch.autograd.grad(pooled.sum(), features)
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize(
    ("settings", "through_rois"),
    [*((kind, False) for kind in KINDS), *((KINDS[k], True) for k in (1, 3, 4))],
)
def test_a_gpu_pools_from_several_levels_as_a_cpu_does(
    settings: PoolingSettings, through_rois: bool
) -> None:
    """A GPU is not asked which RoIs belong to a level: all RoIs pass all levels."""
    pooler = RoIPooler(replace(settings, canonical_size=120.0), [4, 8, 16])
    rois, images = random_boxes(8, 40, extent=256.0), torch.arange(2).repeat_interleave(20)
    rois[-2:] = 0.0  # unused slots
    rois.requires_grad_(through_rois)
    weights, results = torch.randn(40, 3, 7, 7), []
    for gather in (True, False):
        features = levels_of(3)
        pooled = pooler._pool_levels(features, rois, images, 7, gather=gather)
        inputs = [*features, rois] if through_rois else features
        results.append([pooled, *torch.autograd.grad((pooled * weights).sum(), inputs)])
    on_cpu, on_gpu = results
    assert all(part.any() for part in on_cpu)
    assert_close(on_gpu, on_cpu)


@pytest.mark.parametrize("settings", [*KINDS, PYRAMID])
@pytest.mark.parametrize("levels", [1, 2])
def test_half_precision_features_are_pooled_where_the_roi_is(
    settings: PoolingSettings, levels: int
) -> None:
    """In bfloat16 the coordinate 905.3 would become 904 or 908."""
    features = [level.detach().bfloat16() for level in levels_of(levels, seed=3)]
    rois = torch.tensor([[[905.3, 870.2, 990.7, 1001.9]]] * 2)
    pooler = RoIPooler(settings, [16, 32][:levels])
    pooled = pooler(features, rois)
    assert pooled.dtype == torch.bfloat16
    assert_close(pooled, pooler([level.float() for level in features], rois).bfloat16())
