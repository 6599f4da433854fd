"""The region proposal network: its head, and its losses and proposals as a whole."""

from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection.rpn import RPNHead as OracleHead
from torchvision.models.detection.rpn import concat_box_prediction_layers

from rcnn.model.anchors import AnchorGrid, AnchorSettings
from rcnn.model.losses import LossSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.rpn import RPN, RPNHead, RPNSettings
from rcnn.model.targets import AnchorSampling
from tests.model.inputs import NO_ONE_AND_THREE_OBJECTS, assert_all_trained, noise_of, targets_of


@pytest.mark.parametrize("branches", ["shared", "separate"])
@pytest.mark.parametrize("objectness", ["softmax", "sigmoid"])
def test_shapes_of_every_kind_of_head(
    branches: Literal["shared", "separate"], objectness: Literal["softmax", "sigmoid"]
) -> None:
    settings = RPNSettings(channels=16, branches=branches, objectness=objectness)
    head = RPNHead(settings, in_channels=8, anchors_per_cell=9)
    assert head.cls_logits.out_channels == (18 if objectness == "softmax" else 9)
    assert head.bbox_pred.out_channels == 36
    logits, deltas = head([torch.randn(2, 8, 6, 5), torch.randn(2, 8, 3, 2)])
    assert [tuple(level.shape) for level in logits] == [(2, 270), (2, 54)]
    assert [tuple(level.shape) for level in deltas] == [(2, 270, 4), (2, 54, 4)]
    sum(part.sum() for part in logits + deltas).backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_sigmoid_head_equals_torchvision() -> None:
    ours = RPNHead(RPNSettings(channels=None, objectness="sigmoid"), 8, 3)
    oracle = OracleHead(8, 3)
    for mine, its in [
        (ours.conv, oracle.conv[0][0]),
        (ours.cls_logits, oracle.cls_logits),
        (ours.bbox_pred, oracle.bbox_pred),
    ]:
        its.load_state_dict(mine.state_dict())
    levels = [torch.randn(2, 8, 5, 7), torch.randn(2, 8, 3, 4)]
    logits, deltas = concat_box_prediction_layers(*oracle(levels))
    own_logits, own_deltas = ours(levels)
    assert_close(torch.cat(own_logits, dim=1).flatten(), logits.flatten())
    assert_close(torch.cat(own_deltas, dim=1).flatten(0, 1), deltas)


def test_weights_by_the_names_in_older_checkpoints_are_read() -> None:
    head, other = (RPNHead(RPNSettings(), 8, 3) for _ in range(2))
    names = {"cls_logits": "objectness", "bbox_pred": "deltas"}
    old = {}
    for key, tensor in other.state_dict().items():
        layer, kind = key.split(".")
        old[f"head.{names.get(layer, layer)}.{kind}"] = tensor
    nn.ModuleDict({"head": head}).load_state_dict(old)
    assert_close(dict(head.state_dict()), dict(other.state_dict()), atol=0.0, rtol=0.0)


def test_softmax_over_the_pair_is_the_sigmoid_of_the_logit() -> None:
    head = RPNHead(RPNSettings(channels=8), 4, 3)
    features = torch.randn(2, 4, 5, 6)
    ((logits,), _) = head([features])
    raw = head.cls_logits(head.conv(features).relu())  # Caffe's order: (2, T) outer to inner
    probability = raw.unflatten(1, (2, 3)).softmax(dim=1)[:, 1]  # B T h w
    assert_close(logits.sigmoid(), probability.permute(0, 2, 3, 1).flatten(1))


@pytest.mark.parametrize("objectness", ["softmax", "sigmoid"])
def test_order_of_the_outputs_is_that_of_the_anchors(
    objectness: Literal["softmax", "sigmoid"],
) -> None:
    """One template answers at one cell: the anchor at that position must be that box."""
    settings = AnchorSettings(scales=(2.0, 4.0), ratios=(0.5, 1.0, 2.0))
    strides, grids = [8, 16], [(6, 10), (3, 5)]
    anchors = AnchorGrid(settings, strides)(grids, (48, 80))
    head = RPNHead(RPNSettings(channels=1, objectness=objectness), 1, settings.per_cell)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(head.conv.weight[:, :, 1, 1])  # the cell itself
    template, level, (y, x) = 4, 1, (2, 3)  # scale 4, ratio 1
    pair = template + (settings.per_cell if objectness == "softmax" else 0)
    with torch.no_grad():
        head.cls_logits.weight[pair] = 1.0
        head.bbox_pred.weight[4 * template + 2] = 1.0  # tw
    features = [torch.zeros(1, 1, *grid) for grid in grids]
    features[level][0, 0, y, x] = 5.0

    logits, all_deltas = head(features)
    best = torch.cat(logits, dim=1)[0].argmax()
    side = 4 * strides[level]
    centre = torch.tensor([x + 0.5, y + 0.5]) * strides[level]
    expected = torch.cat([centre - side / 2, centre + side / 2])
    assert_close(anchors[best], expected)
    deltas = torch.cat(all_deltas, dim=1)[0]
    assert deltas[best].tolist() == [0.0, 0.0, 5.0, 0.0]
    assert deltas.abs().sum() == 5.0


def test_separate_branches_share_nothing() -> None:
    """Seed document 003 has a 3x3 convolution for each of the two outputs."""
    head = RPNHead(RPNSettings(channels=8, branches="separate"), 4, 3)
    head([torch.randn(1, 4, 5, 6)])[0][0].sum().backward()
    assert head.conv.weight.grad is not None
    assert head.conv_boxes is not None
    assert head.conv_boxes.weight.grad is None
    assert head.bbox_pred.weight.grad is None


def test_layers_start_as_in_the_paper() -> None:
    torch.manual_seed(0)
    head = RPNHead(RPNSettings(), in_channels=256, anchors_per_cell=9)
    for layer in (head.conv, head.cls_logits, head.bbox_pred):
        assert layer.weight.mean().abs() < 5e-4
        assert_close(layer.weight.std(), torch.tensor(0.01), atol=5e-4, rtol=0.0)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_channels_default_to_512_or_those_of_the_backbone() -> None:
    assert RPNHead(RPNSettings(), 64, 3).conv.out_channels == 512
    assert RPNHead(RPNSettings(channels=None), 64, 3).conv.out_channels == 64


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("images", NO_ONE_AND_THREE_OBJECTS)
def test_losses_and_proposals_of_the_whole_network(levels: int, images: Any) -> None:
    torch.manual_seed(0)
    rpn = RPN(
        8,
        [16, 32][:levels],
        head=RPNSettings(channels=16),
        anchors=AnchorSettings(scales=(1.0, 2.0)),
        sampling=AnchorSampling(samples=32),
        losses=LossSettings(),
        proposals=ProposalSettings(after_nms_train=40, after_nms_test=20, min_size=1.0),
    )
    batch = noise_of((64, 96), (64, 80))
    features = [torch.randn(2, 8, 4 // 2**k, 6 // 2**k) for k in range(levels)]
    output = rpn(features, batch)
    assert len(output.anchors) == sum(level.shape[1] for level in output.logits)
    losses, samples = rpn.losses(
        output, batch, targets_of(*images), torch.Generator().manual_seed(0)
    )
    assert set(losses.named) == {"rpn_objectness", "rpn_boxes"}
    assert losses.rpn_objectness > 0
    assert (losses.rpn_boxes > 0) == any(images)
    assert losses.counts.anchors_positive == (samples.labels == 1).sum()
    assert losses.counts.anchors_negative == (samples.labels == 0).sum() > 0
    assert_all_trained(rpn, losses, some=any(images))
    for train, limit in ((True, 40), (False, 20)):
        proposals = rpn.propose(output, batch, train=train)
        assert proposals.boxes.shape[1] == min(limit, len(output.anchors))
        assert proposals.valid.any(dim=1).all()
        assert (proposals.boxes[1, :, 2] <= 80).all()
