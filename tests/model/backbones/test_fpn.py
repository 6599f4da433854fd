"""Feature pyramids on ResNets and on MobileNetV3."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn, fasterrcnn_resnet50_fpn

from rcnn.model.backbones import BackboneSettings, LoadedWeights, build_network
from rcnn.model.backbones.fpn import Trunk


@pytest.mark.parametrize(
    ("name", "builder"),
    [
        ("resnet50_fpn", fasterrcnn_resnet50_fpn),
        ("mobilenet_v3_large_fpn", fasterrcnn_mobilenet_v3_large_fpn),
    ],
)
def test_pyramid_computes_what_torchvisions_detector_does(
    name: str,
    builder: Callable[..., nn.Module],
    randomise: Callable[[nn.Module], dict[str, Tensor]],
    pixels: Tensor,
) -> None:
    theirs = builder(weights=None, weights_backbone=None, num_classes=2).eval()
    state = randomise(theirs)
    ours = build_network(BackboneSettings(name=name, norm="batch"))
    ours.backbone.load_state_dict(_below("backbone.", state))
    ours.box_head.load_state_dict(_below("roi_heads.box_head.", state))
    ours.backbone.eval()

    with torch.no_grad():
        levels = ours.backbone(pixels)
        expected = theirs.backbone(pixels)
        pooled = torch.rand(3, 256, 7, 7)
        torch.testing.assert_close(ours.box_head(pooled), theirs.roi_heads.box_head(pooled))
    assert len(levels) == len(expected)
    for ours_level, theirs_level in zip(levels, expected.values(), strict=True):
        torch.testing.assert_close(ours_level, theirs_level)


@pytest.mark.parametrize(
    ("name", "key"), [("resnet18_fpn", "layer4.0.bn1"), ("mobilenet_v3_large_fpn", "features.16.1")]
)
def test_classification_weights_fill_all_of_the_trunk_and_nothing_else(name: str, key: str) -> None:
    ours = build_network(BackboneSettings(name=name, norm="batch"))
    pyramid = {name: value.clone() for name, value in ours.backbone.fpn.state_dict().items()}
    prefix = key.split(".")[0] + "." if key.startswith("features") else ""
    trunk = ours.backbone.body.state_dict()
    state = {prefix + name: torch.full_like(value, 3) for name, value in trunk.items()}
    assert f"{key}.running_mean" in state
    LoadedWeights("test", "test", state).load_into(ours)
    assert all((value == 3).all() for value in ours.backbone.body.state_dict().values())
    for name, value in ours.backbone.fpn.state_dict().items():
        torch.testing.assert_close(value, pyramid[name])


def test_statistics_of_mobilenet_move_as_fast_as_in_torchvisions_detector() -> None:
    with torch.device("meta"):
        settings = BackboneSettings(name="mobilenet_v3_large_fpn", norm="batch")
        backbone = build_network(settings).backbone
    norms = [part for part in backbone.modules() if isinstance(part, nn.BatchNorm2d)]
    assert {part.momentum for part in norms} == {0.1}


def test_widths_of_the_settings_reach_pyramid_and_box_head() -> None:
    settings = BackboneSettings(name="resnet18_fpn", fpn_channels=32, hidden=48)
    with torch.device("meta"):
        network = build_network(settings, cells=4)
        levels = network.backbone(torch.empty(1, 3, 64, 64))
        vectors = network.box_head(torch.empty(3, 32, 2, 2))
    assert {level.shape[1] for level in levels} == {network.backbone.channels} == {32}
    assert vectors.shape == (3, 48)


def test_sizes_that_no_stride_divides_are_ordinary() -> None:
    backbone = build_network(BackboneSettings(name="resnet18_fpn")).backbone.eval()
    with torch.no_grad():
        levels = backbone(torch.rand(1, 3, 65, 97))
    assert [tuple(level.shape[2:]) for level in levels] == [
        (17, 25),
        (9, 13),
        (5, 7),
        (3, 4),
        (2, 2),
    ]


def test_trunk_keeps_the_named_results_in_order() -> None:
    trunk = Trunk({"a": nn.Flatten(2), "b": nn.Unflatten(2, (1, -1)), "c": nn.ReLU()}, ("b", "c"))
    maps = trunk(-torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(maps, [-torch.ones(1, 3, 1, 4), torch.zeros(1, 3, 1, 4)])


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
