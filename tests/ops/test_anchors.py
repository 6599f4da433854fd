"""Anchors against published tables."""

import pytest
import torch
from torch.testing import assert_close

from rcnn.ops.anchors import templates, tile
from tests.ops.inputs import GEOMETRY


def test_size_and_ratio_by_hand() -> None:
    cell = templates([100.0], [0.25, 1.0, 4.0])
    widths, heights = cell[:, 2] - cell[:, 0], cell[:, 3] - cell[:, 1]
    assert_close(widths, torch.tensor([200.0, 100.0, 50.0]))
    assert_close(heights, torch.tensor([50.0, 100.0, 200.0]))
    assert_close(cell[:, :2], -cell[:, 2:])  # around (0, 0)


def test_table_of_the_released_caffe_code() -> None:
    sizes, ratios = [128.0, 256.0, 512.0], [0.5, 1.0, 2.0]
    cell = templates(sizes, ratios, rounding="caffe", stride=16.0)
    ours = tile(cell, (1, 1), (16.0, 16.0), offset=0.5)
    # Its boxes are inclusive, ours end one pixel further. It lists the ratios outer, we the sizes.
    table = torch.tensor(GEOMETRY["legacy_anchors"]["python_output"]).float()
    theirs = (table + torch.tensor([0, 0, 1, 1])).view(3, 3, 4).transpose(0, 1).reshape(9, 4)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("offset", "key"), [(0.0, "expected"), (0.5, "centred_offset_0_5")])
def test_table_of_detectron2(offset: float, key: str) -> None:
    cell = templates([32.0, 64.0], [0.25, 1.0, 4.0])
    ours = tile(cell, (1, 2), (4.0, 4.0), offset=offset)
    assert_close(ours, torch.tensor(GEOMETRY["d2_anchors"][key]).float())


def test_table_of_torchvision() -> None:
    case = GEOMETRY["tv_anchors"]
    ours = tile(templates([10.0], [1.0]), (3, 3), (5.0, 5.0), offset=0.0)
    assert torch.equal(ours, torch.tensor(case["expected"]).float())
    # Its cell lists the ratios outer, ours the sizes.
    cell = templates([128.0, 256.0, 512.0], [0.5, 1.0, 2.0], rounding="nearest")
    table = torch.tensor(case["cell_anchors_128_256_512_run_here"]).float()
    assert torch.equal(cell, table.view(3, 3, 4).transpose(0, 1).reshape(9, 4))


def test_order_is_rows_then_columns_then_templates() -> None:
    cell = templates([8.0, 16.0], [1.0])
    anchors = tile(cell, (2, 3), (10.0, 100.0), offset=0.0).view(2, 3, 2, 4)
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    for y in range(2):
        for x in range(3):
            assert centres[y, x].tolist() == [[100.0 * x, 10.0 * y]] * 2
    assert (anchors[..., 2] - anchors[..., 0])[0, 0].tolist() == [8.0, 16.0]
