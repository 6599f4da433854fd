import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.model.backbones import BackboneSettings, build_network
from rcnn.model.backbones.backbone import freeze_norms

COUNTS = json.loads((Path(__file__).parent / "fixtures" / "frozen_params.json").read_text())


@pytest.mark.parametrize(
    ("trainable_layers", "count"),
    [(int(key), value) for key, value in COUNTS["frozen_by_trainable_layers"].items()],
)
def test_frozen_parameters_are_counted_as_by_torchvision(trainable_layers: int, count: int) -> None:
    backbone = _body("resnet50_fpn", frozen_stages=5 - trainable_layers, norm="frozen").backbone
    learning = [parameter.requires_grad for parameter in backbone.parameters()]
    assert learning == [False] * count + [True] * (53 - count)


@pytest.mark.parametrize("frozen_stages", range(6))
def test_resnet_learns_what_torchvision_lets_learn(frozen_stages: int) -> None:
    with torch.device("meta"):
        theirs = resnet_fpn_backbone(
            backbone_name="resnet18",
            weights=None,
            norm_layer=nn.BatchNorm2d,
            trainable_layers=5 - frozen_stages,
        )
    assert _learning(_body("resnet18_fpn", frozen_stages, "batch")) == _learning(theirs)


@pytest.mark.parametrize("frozen_stages", range(7))
def test_mobilenet_learns_what_torchvision_lets_learn(frozen_stages: int) -> None:
    with torch.device("meta"):
        theirs = mobilenet_backbone(
            backbone_name="mobilenet_v3_large",
            weights=None,
            fpn=True,
            trainable_layers=6 - frozen_stages,
        )
    assert _learning(_body("mobilenet_v3_large_fpn", frozen_stages, "frozen")) == _learning(theirs)


def test_two_frozen_stages_of_vgg16_are_conv1_and_conv2() -> None:
    backbone = _body("vgg16", frozen_stages=2, norm="auto")
    frozen = [name for name, value in backbone.named_parameters() if not value.requires_grad]
    assert frozen == [f"features.{i}.{kind}" for i in (0, 2, 5, 7) for kind in ("weight", "bias")]


def test_fifth_stage_of_a_c4_resnet_is_its_tail() -> None:
    with torch.device("meta"):
        four = build_network(BackboneSettings(frozen_stages=4))
        five = build_network(BackboneSettings(frozen_stages=5))
    assert not _learning(four.backbone)
    assert _learning(four.box_head)
    assert not _learning(five.box_head)


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18", "resnet18_fpn", "mobilenet_v3_large_fpn"])
def test_norm_setting_decides_about_every_norm_and_its_epsilon(name: str) -> None:
    for norm, kind in (("batch", nn.BatchNorm2d), ("frozen", FrozenBatchNorm2d)):
        with torch.device("meta"):
            backbone = build_network(
                BackboneSettings(name=name, norm=norm, frozen_stages=0, norm_eps=0.25)
            )
        parts = [*network.backbone.modules(), *network.box_head.modules()]
        norms = [part for part in parts if isinstance(part, nn.BatchNorm2d | FrozenBatchNorm2d)]
        assert norms
        assert all(type(part) is kind and part.eps == 0.25 for part in norms)


def test_frozen_stage_counts_no_statistics_while_later_stages_do(pixels: Tensor) -> None:
    backbone = build_network(BackboneSettings(norm="batch", frozen_stages=2)).backbone.train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(pixels)
    moved = {name for name, value in backbone.named_buffers() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(("layer2.", "layer3.")) for name in moved)


def test_frozen_norms_are_the_same_in_training_and_inference(pixels: Tensor) -> None:
    backbone = build_network(BackboneSettings(norm="frozen")).backbone
    torch.testing.assert_close(backbone.train()(pixels), backbone.eval()(pixels))


def test_freezing_keeps_what_the_norm_computes(generator: torch.Generator) -> None:
    norm = nn.BatchNorm2d(3, eps=0.1).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 2.0, generator=generator)
    features = torch.rand(2, 3, 4, 5, generator=generator)
    frozen = freeze_norms(nn.Sequential(nn.Identity(), nn.Sequential(norm)))
    assert not list(frozen.parameters())
    torch.testing.assert_close(frozen(features), norm(features).detach())


def _body(name: str, frozen_stages: int, norm: str) -> nn.Module:
    with torch.device("meta"):
        settings = BackboneSettings(name=name, frozen_stages=frozen_stages, norm=norm)
        return build_network(settings).backbone


def _learning(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}
