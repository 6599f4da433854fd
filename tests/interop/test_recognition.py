"""Which backbone is inside, told by its tensors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from rcnn.interop import InteropError
from rcnn.interop.recognition import recognise_backbone

Assemble = Callable[..., FasterRCNN]


def around(backbone: nn.Module) -> FasterRCNN:
    """A detector that pools each RoI to one cell, which makes its head small."""
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=1, sampling_ratio=2)
    return FasterRCNN(backbone, num_classes=3, box_roi_pool=pool)


def pyramid(name: str, **arguments: Any) -> nn.Module:
    """A ResNet with a pyramid whose tensors have shapes but no values."""
    with torch.device("meta"):
        return resnet_fpn_backbone(backbone_name=name, weights=None, **arguments)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnets_with_a_pyramid(depth: int) -> None:
    found = recognise_backbone(around(pyramid(f"resnet{depth}")), pooled_size=1)
    assert found.name == f"resnet{depth}_fpn"
    assert found.norm == "frozen"
    assert found.weights is None
    assert (found.hidden, found.fpn_channels) == (1024, 256)


@pytest.mark.parametrize(
    ("name", "found", "hidden", "norm"),
    [
        ("mobilenet_fpn", "mobilenet_v3_large_fpn", 1024, "batch"),
        ("resnet18_c4", "resnet18", None, "frozen"),
        ("vgg16_c4", "vgg16", 1024, "batch"),
    ],
)
def test_other_families(
    assemble: Assemble, name: str, found: str, hidden: int | None, norm: str
) -> None:
    settings = recognise_backbone(assemble(name), pooled_size=7)
    assert (settings.name, settings.hidden, settings.norm) == (found, hidden, norm)
    assert settings.frozen_stages == 0


def test_width_and_dropout_of_the_head_and_norms_of_the_body_are_read() -> None:
    with torch.device("meta"):
        features = get_model("vgg16_bn", weights=None).features[:-1]
    for layer in features:
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 2e-3
    features.out_channels = 512
    head = nn.Sequential(
        nn.Flatten(), *(nn.Linear(512 * 9, 20), nn.ReLU(), nn.Dropout(0.4)),
        *(nn.Linear(20, 20), nn.ReLU(), nn.Dropout(0.4)),
    )  # fmt: skip
    model = FasterRCNN(features, box_head=head, box_predictor=FastRCNNPredictor(20, 3))
    found = recognise_backbone(model, pooled_size=3)
    assert found.name == "vgg16_bn"
    assert (found.hidden, found.dropout) == (20, 0.4)
    assert (found.norm, found.norm_eps) == ("batch", 2e-3)


@pytest.mark.parametrize(("learning", "frozen"), [(5, 0), (4, 1), (3, 2), (1, 4), (0, 5)])
def test_leading_stages_that_do_not_learn_are_counted(learning: int, frozen: int) -> None:
    backbone = pyramid("resnet18", trainable_layers=learning)
    assert recognise_backbone(around(backbone), pooled_size=1).frozen_stages == frozen


def test_stages_of_mobilenet_and_blocks_of_vgg_are_counted(assemble: Assemble) -> None:
    with torch.device("meta"):
        backbone = mobilenet_backbone(
            backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=2
        )
    assert recognise_backbone(around(backbone), pooled_size=1).frozen_stages == 4
    model = assemble("vgg16_c4")
    model.backbone[:5].requires_grad_(False)  # conv1_1 to conv1_2 and their pooling
    model.backbone[5].requires_grad_(False)  # conv2_1 alone
    assert recognise_backbone(model, pooled_size=7).frozen_stages == 1


def test_a_later_stage_alone_is_no_leading_stage() -> None:
    backbone = pyramid("resnet18", trainable_layers=5)
    network.backbone.layer2.requires_grad_(False)
    assert recognise_backbone(around(backbone), pooled_size=1).frozen_stages == 0


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnext50_32x4d"])
def test_other_networks_are_refused_and_the_supported_are_named(name: str) -> None:
    with pytest.raises(InteropError, match=r"BackboneWithFPN.*Supported are vgg16.*resnet50_fpn"):
        recognise_backbone(around(pyramid(name)), pooled_size=1)


def test_fewer_levels_are_refused() -> None:
    model = around(pyramid("resnet18", returned_layers=[2, 3, 4]))
    with pytest.raises(InteropError, match=r"backbone.*not supported"):
        recognise_backbone(model, pooled_size=1)


def test_a_head_that_does_not_go_with_the_backbone_is_refused(assemble: Assemble) -> None:
    model = assemble("vgg16_c4")
    model.roi_heads.box_head = nn.Sequential(nn.Flatten(), nn.Linear(512 * 49, 1024), nn.ReLU())
    with pytest.raises(InteropError, match=r"box head, a Sequential.*'vgg16'.*TwoMLPHead\(512"):
        recognise_backbone(model, pooled_size=7)
    model = assemble("resnet18_c4")
    model.roi_heads.box_head = TwoMLPHead(256 * 49, 512)
    with pytest.raises(InteropError, match=r"TwoMLPHead.*'resnet18'.*layer4"):
        recognise_backbone(model, pooled_size=7)


def test_dropout_behind_a_pyramid_is_refused() -> None:
    head = nn.Sequential(
        nn.Flatten(), *(nn.Linear(256 * 9, 20), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(20, 20), nn.ReLU(), nn.Dropout()),
    )  # fmt: skip
    predictor = FastRCNNPredictor(20, 3)
    model = FasterRCNN(pyramid("resnet18"), box_head=head, box_predictor=predictor)
    with pytest.raises(InteropError, match=r"Dropout.*'resnet18_fpn'"):
        recognise_backbone(model, pooled_size=3)


def test_norms_that_differ_are_refused() -> None:
    backbone = pyramid("resnet18", norm_layer=nn.BatchNorm2d)
    with torch.device("meta"):
        network.backbone.bn1 = FrozenBatchNorm2d(64)
    with pytest.raises(InteropError, match=r"BatchNorm2d with eps=1e-05 and FrozenBatchNorm2d"):
        recognise_backbone(around(backbone), pooled_size=1)
    backbone = pyramid("resnet18", norm_layer=nn.SyncBatchNorm)
    with pytest.raises(InteropError, match=r"SyncBatchNorm is not supported"):
        recognise_backbone(around(backbone), pooled_size=1)
