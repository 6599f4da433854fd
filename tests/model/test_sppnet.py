"""SPP-net: a pyramid of bins on frozen convolutions; what every system does is in test_build."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from rcnn.model.backbones import BackboneSettings
from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.sppnet import SPPNet
from rcnn.settings import SettingsError
from rcnn.structures import ImageBatch, Proposals
from tests.model.inputs import TINY, A, B, noise_of, targets_of
from tests.ops.inputs import random_boxes

SETTINGS = replace(TINY, pooling=PoolingSettings(kind="pyramid"))
TWO_MLP = BackboneSettings(
    "resnet18", weights=None, norm="batch", frozen_stages=0, box_head="two_mlp", hidden=16
)


@pytest.fixture
def detector() -> SPPNet:
    torch.manual_seed(0)
    return SPPNet(SETTINGS)


@pytest.fixture
def batch() -> ImageBatch:
    given = Proposals.pad(list(random_boxes(0, 2, 50, extent=64.0)), torch.ones(2, 2))
    return replace(noise_of((64, 96), (64, 96)), proposals=given)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_proposals_is_classified(
    detector: SPPNet, batch: ImageBatch, count: int
) -> None:
    boxes = torch.tensor([[4.0, 8.0, 40.0, 60.0], [60.0, 8.0, 90.0, 50.0], [0.0, 0.0, 96.0, 64.0]])
    given = replace(batch, proposals=Proposals.pad([boxes[:count], boxes[:0]], batch.scales))
    assert detector.losses(given, targets_of([A], [])).total.isfinite()
    found, _ = detector.eval().detect_batch(given)
    assert [len(one) > 0 for one in found] == [count > 0, False]


def test_no_graph_is_kept_of_the_convolutions(detector: SPPNet, batch: ImageBatch) -> None:
    features = detector.extract_features(batch)
    pooled = detector.roi_heads.pooler(features, torch.tensor([[[4.0, 8.0, 40.0, 60.0]]] * 2))
    assert pooled.shape == (2, 8, 50, 1)
    assert not pooled.requires_grad


def test_training_leaves_the_convolutions_as_they_are(batch: ImageBatch) -> None:
    detector = SPPNet(replace(SETTINGS, backbone=TWO_MLP)).train()
    before = {name: tensor.clone() for name, tensor in detector.backbone.state_dict().items()}
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        detector.losses(batch, targets_of([A], [B])).total.backward()
        optimiser.step()
    for name, tensor in detector.backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # statistics included
    assert not any(parameter.requires_grad for parameter in detector.backbone.parameters())
    assert not detector.backbone.training
    assert detector.roi_heads.training


def test_the_losses_are_those_of_fast_rcnn_with_the_same_weights(
    detector: SPPNet, batch: ImageBatch
) -> None:
    other = FastRCNN(SETTINGS)
    other.load_state_dict(detector.state_dict())
    ours, theirs = (
        one.losses(batch, targets_of([A], [B]), torch.Generator().manual_seed(0))
        for one in (detector, other)
    )
    assert_close(ours.named, theirs.named)


@pytest.mark.parametrize("kind", ["roi_pool", "roi_align", "crop"])
def test_other_pooling_is_refused_with_a_way_out(kind: Any) -> None:
    with pytest.raises(SettingsError, match=rf"pooling\.kind='{kind}'.*model=fast_rcnn"):
        SPPNet(replace(SETTINGS, pooling=PoolingSettings(kind)))


@pytest.mark.parametrize("system", [SPPNet, FastRCNN])
def test_a_box_head_of_convolutions_is_refused_with_a_way_out(system: type[FastRCNN]) -> None:
    own = replace(TWO_MLP, box_head="own")
    with pytest.raises(SettingsError, match=r"box head of resnet18.*backbone\.box_head=two_mlp"):
        system(replace(SETTINGS, backbone=own))
    system(replace(SETTINGS, backbone=TWO_MLP))
