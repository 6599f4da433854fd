"""SPP-net: a pyramid of bins on convolutions that stay as they are."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rcnn.model.backbones import BackboneSettings
from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.sppnet import SPPNet
from rcnn.settings import SettingsError
from rcnn.structures import ImageBatch, Proposals, Targets

MakeBatch = Callable[..., ImageBatch]
MakeTargets = Callable[..., Targets]
Boxes = Callable[..., Tensor]
Objects = list[list[tuple[float, float, float, float, int]]]

A = (10.0, 10.0, 50.0, 40.0, 1)
B = (30.0, 30.0, 90.0, 62.0, 2)
C = (60.0, 5.0, 85.0, 30.0, 3)
LINEAR = BackboneSettings(
    "resnet18", weights=None, norm="batch", frozen_stages=0, box_head="two_mlp", hidden=16
)


@pytest.fixture
def settings(tiny: DetectorSettings) -> DetectorSettings:
    return replace(tiny, pooling=PoolingSettings(kind="pyramid"))


@pytest.fixture
def detector(settings: DetectorSettings) -> SPPNet:
    torch.manual_seed(0)
    return SPPNet(settings)


@pytest.fixture
def batch(batch_of: MakeBatch, random_boxes: Boxes, generator: torch.Generator) -> ImageBatch:
    black = batch_of((64, 96), (64, 96))
    noise = torch.rand(black.pixels.shape, generator=generator)
    given = Proposals.pad(list(random_boxes(0, 2, 50, extent=64.0)), black.scales)
    return replace(black, pixels=noise, proposals=given)


@pytest.mark.parametrize("images", [[[], []], [[A], []], [[A, B, C], [B]]])
def test_two_losses_reach_tail_and_head_and_nothing_else(
    detector: SPPNet, batch: ImageBatch, targets_of: MakeTargets, images: Objects
) -> None:
    losses = detector.losses(batch, targets_of(*images))
    assert set(losses.named) == {"roi_classes", "roi_boxes"}
    losses.total.backward()
    some = any(images)
    assert (losses.roi_boxes > 0) == some
    for name, parameter in detector.roi_heads.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert not some or parameter.grad.any(), name
    for parameter in detector.backbone.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_proposals_is_classified(
    detector: SPPNet, batch: ImageBatch, targets_of: MakeTargets, count: int
) -> None:
    boxes = torch.tensor([[4.0, 8.0, 40.0, 60.0], [60.0, 8.0, 90.0, 50.0], [0.0, 0.0, 96.0, 64.0]])
    given = replace(batch, proposals=Proposals.pad([boxes[:count], boxes[:0]], batch.scales))
    assert detector.losses(given, targets_of([A], [])).total.isfinite()
    found, _ = detector.eval().detect_batch(given)
    assert [len(one) > 0 for one in found] == [count > 0, False]


def test_no_graph_is_kept_of_the_convolutions(detector: SPPNet, batch: ImageBatch) -> None:
    batch = replace(batch, pixels=batch.pixels.requires_grad_())
    pooled = detector.pooling(batch)(torch.tensor([[[4.0, 8.0, 40.0, 60.0]]] * 2))
    assert pooled.shape == (2, 8, 50, 1)
    assert not pooled.requires_grad


def test_training_leaves_the_convolutions_as_they_are(
    settings: DetectorSettings, batch: ImageBatch, targets_of: MakeTargets
) -> None:
    detector = SPPNet(replace(settings, backbone=LINEAR)).train()
    before = {name: tensor.clone() for name, tensor in detector.backbone.state_dict().items()}
    learned = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(learned, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        detector.losses(batch, targets_of([A], [B])).total.backward()
        optimiser.step()
    for name, tensor in detector.backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # statistics included
    assert not detector.backbone.training
    assert detector.roi_heads.training


def test_the_losses_are_those_of_fast_rcnn_with_the_same_weights(
    settings: DetectorSettings, detector: SPPNet, batch: ImageBatch, targets_of: MakeTargets
) -> None:
    other = FastRCNN(settings)
    other.load_state_dict(detector.state_dict())
    ours, theirs = (
        network.losses(batch, targets_of([A], [B]), torch.Generator().manual_seed(0))
        for network in (detector, other)
    )
    assert_close(ours.named, theirs.named)


@pytest.mark.parametrize("kind", ["roi_pool", "roi_align", "crop"])
def test_other_pooling_is_refused_with_a_way_out(settings: DetectorSettings, kind: Any) -> None:
    message = rf"pooling\.kind='{kind}'.*pooling\.kind=pyramid; model=fast_rcnn"
    with pytest.raises(SettingsError, match=message):
        SPPNet(replace(settings, pooling=PoolingSettings(kind)))


@pytest.mark.parametrize("system", [SPPNet, FastRCNN])
def test_a_tail_of_convolutions_is_refused_with_a_way_out(
    settings: DetectorSettings, system: type[FastRCNN]
) -> None:
    own = replace(LINEAR, box_head="own")
    with pytest.raises(SettingsError, match=r"box head of resnet18.*backbone\.box_head=two_mlp"):
        system(replace(settings, backbone=own))
    system(replace(settings, backbone=LINEAR))


def test_a_tail_of_convolutions_takes_all_other_pooling(settings: DetectorSettings) -> None:
    own = replace(LINEAR, box_head="own")
    pooled = PoolingSettings("roi_pool", size=2)
    assert FastRCNN(replace(settings, backbone=own, pooling=pooled)).settings.pooling == pooled
