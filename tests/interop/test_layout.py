"""Keys and orders, by hand."""

import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator

from rcnn.interop.layout import anchor_order, pair_keys, reorder_channels, signature
from rcnn.ops.anchors import templates


def test_anchors_of_a_cell_go_from_size_first_to_ratio_first() -> None:
    # here: (s0 r0) (s0 r1) (s1 r0) (s1 r1) (s2 r0) (s2 r1); there: all sizes of r0, then of r1
    assert anchor_order(sizes=3, ratios=2).tolist() == [0, 2, 4, 1, 3, 5]


def test_reordered_templates_are_those_of_torchvision() -> None:
    sizes, ratios = (20.0, 50.0, 130.0), (0.4, 1.0, 2.5, 3.0)
    ours = templates(sizes, ratios, "nearest")
    generator = AnchorGenerator((sizes,), (ratios,))
    assert torch.equal(ours[anchor_order(3, 4)], generator.cell_anchors[0])


def test_channels_of_one_anchor_stay_together() -> None:
    bias = torch.tensor([0.0, 1.0, 10.0, 11.0, 20.0, 21.0])
    order = torch.tensor([2, 0, 1])
    assert reorder_channels(bias, order).tolist() == [20.0, 21.0, 0.0, 1.0, 10.0, 11.0]
    weight = bias[:, None, None, None].expand(-1, 3, 1, 1)
    assert_close(reorder_channels(weight, order)[:, 2, 0, 0], reorder_channels(bias, order))
    assert_close(reorder_channels(reorder_channels(bias, order), order.argsort()), bias)


def test_signature_has_kinds_and_shapes_but_no_names_and_no_counts() -> None:
    named = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 1), "norm": nn.BatchNorm2d(4)})
    listed = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    assert signature(named) == signature(listed)
    assert signature(named)[0] == ("weight", (4, 3, 1, 1))
    assert [kind for kind, _ in signature(named)[2:]] == [
        "weight",
        "bias",
        "running_mean",
        "running_var",
    ]
    assert pair_keys(named, listed)["norm.running_var"] == "2.running_var"
