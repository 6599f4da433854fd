"""The anchors of every level."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from rcnn.model.anchors import AnchorGrid, AnchorSettings
from rcnn.settings import SettingsError
from tests.ops.inputs import GEOMETRY


def test_scales_are_strides_of_each_level() -> None:
    grid = AnchorGrid(AnchorSettings(scales=(8.0,), ratios=(1.0,)), strides=[4, 8, 16, 32, 64])
    grids = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    anchors = grid(grids, (64, 96)).split([height * width for height, width in grids])
    for level, size in zip(anchors, [32.0, 64.0, 128.0, 256.0, 512.0], strict=True):
        assert_close(level[:, 2] - level[:, 0], torch.full((len(level),), size))


@pytest.mark.parametrize(
    ("sizes", "ratios", "strides", "grids"),
    [
        (((32.0, 64.0, 128.0),), (1.0,), [16], [(6, 8)]),
        (((32.0,), (64.0,), (128.0,)), (0.5, 1.0, 2.0), [4, 8, 16], [(24, 32), (12, 16), (6, 8)]),
        # the top level of a pyramid is one cell, over more than its stride
        (((32.0,), (64.0,)), (0.5, 1.0), [64, 64], [(2, 2), (1, 1)]),
    ],
)
def test_all_levels_equal_torchvision(
    sizes: tuple[tuple[float, ...], ...],
    ratios: tuple[float, ...],
    strides: list[int],
    grids: list[tuple[int, int]],
) -> None:
    padded = (96, 128)
    oracle = AnchorGenerator(sizes, (ratios,) * len(sizes))
    images = ImageList(torch.zeros(1, 3, *padded), [padded])
    expected = oracle(images, [torch.zeros(1, 1, *grid) for grid in grids])[0]
    settings = AnchorSettings(
        sizes=sizes, ratios=ratios, offset=0.0, rounding="nearest", spacing="grid"
    )
    assert torch.equal(AnchorGrid(settings, strides)(grids, padded), expected)


def test_stride_spacing_does_not_depend_on_the_padding() -> None:
    grid = AnchorGrid(AnchorSettings(), strides=[16])
    assert torch.equal(grid([(3, 4)], (48, 64)), grid([(3, 4)], (63, 79)))


def test_caffe_rounding_is_that_of_the_stride() -> None:
    anchors = AnchorGrid(AnchorSettings(rounding="caffe"), strides=[16])([(1, 1)], (16, 16))
    table = torch.tensor(GEOMETRY["legacy_anchors"]["python_output"]).float()
    theirs = table + torch.tensor([0, 0, 1, 1])  # ratios outer, inclusive
    assert torch.equal(anchors, theirs.view(3, 3, 4).transpose(0, 1).reshape(9, 4))


def test_anchors_follow_the_module_and_are_not_in_its_state() -> None:
    grid = AnchorGrid(AnchorSettings(), strides=[8, 16])
    assert list(grid.state_dict()) == []
    assert nn.Sequential(grid).to("meta")[0]([(2, 2), (1, 1)], (16, 16)).device.type == "meta"


def test_number_of_anchors_of_a_cell() -> None:
    assert AnchorSettings().per_cell == 9
    assert AnchorSettings(scales=(8.0,)).per_cell == 3
    assert AnchorSettings(sizes=((32.0, 64.0), (64.0, 128.0)), ratios=(1.0,)).per_cell == 2


def test_sizes_for_the_wrong_number_of_levels() -> None:
    with pytest.raises(SettingsError, match=r"sizes.*2 levels.*has 1"):
        AnchorGrid(AnchorSettings(sizes=((32.0,), (64.0,))), strides=[16])
