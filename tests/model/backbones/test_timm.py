"""Models of timm as backbones, without network."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import nn

from rcnn.model.backbones import (
    BackboneSettings,
    WeightsError,
    WeightsWarning,
    build_network,
    normalisation,
    resolve,
)
from rcnn.model.backbones.timm import SimplePyramid
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError, from_plain, to_plain

RESNET, CONVNEXT, VIT = "timm/resnet18", "timm/convnext_atto", "timm/vit_tiny_patch16_224"
SWIN = "timm/swin_tiny_patch4_window7_224"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every attempt to reach the network fail at once."""

    def refuse(*args: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def random(name: str, **changes: Any) -> BackboneSettings:
    given = {"weights": None, "norm": "batch", "frozen_stages": 0, "hidden": 8, "fpn_channels": 6}
    return BackboneSettings(name, **(given | changes))


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        *((name, 6, (4, 8, 16, 32, 64)) for name in (f"{RESNET}_fpn", f"{CONVNEXT}_fpn")),
        *((name, 6, (4, 8, 16, 32, 64)) for name in (f"{VIT}_fpn", f"{SWIN}_fpn")),
        *((RESNET, 256, (16,)), (CONVNEXT, 160, (16,)), (VIT, 192, (16,))),
    ],
)
def test_levels_and_vectors_have_the_promised_shapes(
    name: str, channels: int, strides: tuple[int, ...]
) -> None:
    network = build_network(random(name), cells=4)
    with torch.no_grad():
        levels = network.backbone.eval()(torch.rand(2, 3, 64, 128))
        vectors = network.box_head(torch.rand(3, channels, 2, 2))
    assert (network.backbone.strides, network.backbone.channels) == (strides, channels)
    assert network.backbone.roi_levels == max(len(strides) - 1, 1)
    expected = [(2, channels, 64 // stride, 128 // stride) for stride in strides]
    assert [tuple(level.shape) for level in levels] == expected
    assert vectors.shape == (3, network.box_head.channels) == (3, 8)


def test_body_computes_what_timms_network_does(
    generator: torch.Generator, randomise: Any, tmp_path: Path
) -> None:
    theirs = timm.create_model("resnet18").eval()
    torch.save(randomise(theirs), tmp_path / "resnet18.pth")
    settings, loaded = resolve(random(f"{RESNET}_fpn", weights=str(tmp_path / "resnet18.pth")))
    ours = build_network(settings)
    sentence = loaded.load_into(ours)
    assert sentence.endswith(", with random backbone.fpn and box_head.")
    pixels = torch.rand(1, 3, 64, 96, generator=generator)
    with torch.no_grad():
        levels = ours.backbone.eval().body(pixels)
        torch.testing.assert_close(levels[-1], theirs.forward_features(pixels))


@pytest.mark.parametrize(
    ("name", "stages", "first"),
    [
        (RESNET, 4, "layer1"),
        (f"{RESNET}_fpn", 5, "layer1"),
        (f"{CONVNEXT}_fpn", 5, "stages.0"),
        (f"{VIT}_fpn", 13, "blocks.0"),
    ],
)
def test_frozen_stages_are_timms_groups_of_layers(name: str, stages: int, first: str) -> None:
    one = build_network(random(name, frozen_stages=1)).backbone.body.model
    learning = [key for key, parameter in one.named_parameters() if parameter.requires_grad]
    assert learning[0].startswith(f"{first}.")
    body = build_network(random(name, frozen_stages=stages)).backbone.body
    assert not any(parameter.requires_grad for parameter in body.parameters())
    with pytest.raises(SettingsError, match=rf"frozen_stages={stages + 1} .*has {stages} stages"):
        build_network(random(name, frozen_stages=stages + 1))


@pytest.mark.parametrize("name", [RESNET, "timm/mobilenetv3_small_050"])
def test_norms_are_frozen_with_their_activation_and_have_the_epsilon(name: str) -> None:
    pixels = torch.rand(2, 3, 64, 64)
    settings = random(name, norm="frozen", norm_eps=0.25)
    frozen = build_network(settings).backbone
    kinds = {type(m).__name__ for m in frozen.modules() if hasattr(m, "running_mean")}
    assert kinds <= {"FrozenBatchNorm2d", "FrozenBatchNormAct2d"}
    assert any(isinstance(m, FrozenBatchNormAct2d) for m in frozen.modules()) == (name != RESNET)
    assert all(m.eps == 0.25 for m in frozen.modules() if hasattr(m, "running_mean"))
    torch.testing.assert_close(frozen.train()(pixels), frozen.eval()(pixels))
    batch = build_network(random(name, norm_eps=0.25)).backbone.eval()
    batch.load_state_dict(frozen.state_dict(), strict=False)
    torch.testing.assert_close(batch(pixels), frozen(pixels))


def test_norms_of_a_frozen_stage_keep_their_statistics() -> None:
    body = build_network(random(RESNET, frozen_stages=2)).backbone.train().body
    before = {name: value.clone() for name, value in body.named_buffers()}
    body(torch.rand(2, 3, 64, 64))
    moved = {n for n, value in body.named_buffers() if not torch.equal(value, before[n])}
    assert moved
    assert all(name.startswith(("model.layer2.", "model.layer3.")) for name in moved)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        (RESNET, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (f"{VIT}_fpn", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_normalisation_is_that_of_timms_weights(name: str, mean: object, std: object) -> None:
    assert normalisation(BackboneSettings(name)) == (mean, std)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm/resnet81", "did you mean 'resnet18'"),
        ("timm/resnet18.nothing", r"\(nothing\) for resnet18"),
        ("timm/maxvit_tiny_rw_224", "images of one size only"),
        ("timm/vit_small_patch14_dinov2_fpn", "stride of 14 cannot be divided by 4"),
    ],
)
def test_model_that_cannot_serve_is_an_error_with_name_and_reason(name: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=rf"backbone\.name='{name}'.*{reason}"):
        build_network(random(name))


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SettingsError, match=r"pip install 'rcnn\[timm\]'"):
        build_network(random(RESNET))


def test_weights_that_cannot_be_fetched_are_named_with_the_ways_out() -> None:
    parts = (r"timm/convnext_atto are not available", "HF_HOME", "backbone.weights=null")
    with pytest.raises(WeightsError, match=r"weights='imagenet'.*" + ".*".join(parts)):
        resolve(BackboneSettings(CONVNEXT, weights="imagenet"))
    with pytest.warns(WeightsWarning, match="RANDOM"):
        settled, loaded = resolve(BackboneSettings(CONVNEXT))
    assert (loaded.source, settled.norm, settled.frozen_stages) == ("random", "batch", 0)
    with pytest.raises(SettingsError, match="did you mean 'resnet18'"):
        resolve(BackboneSettings("timm/resnet81"))


def test_fetched_weights_fill_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    create, published = timm.create_model, timm.create_model("resnet18", num_classes=0)

    def fetch(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        return published if pretrained else create(name, num_classes=num_classes)

    monkeypatch.setattr(timm, "create_model", fetch)
    settings, loaded = resolve(BackboneSettings(RESNET, weights="imagenet", hidden=8))
    network = build_network(settings)
    loaded.load_into(network)
    model = network.backbone.body.model
    key = "layer3.1.conv2.weight"
    torch.testing.assert_close(model.get_parameter(key), published.get_parameter(key))
    assert (loaded.source, settings.norm, settings.frozen_stages) == ("imagenet", "frozen", 2)


def test_checkpoint_of_such_a_detector_is_read_without_network(tmp_path: Path) -> None:
    settings = DetectorSettings(("thing",), backbone=random(f"{VIT}_fpn"))
    assert settings.images.mean == (0.5, 0.5, 0.5)
    first, path = FasterRCNN(settings).eval(), tmp_path / "detector.pt"
    torch.save({"settings": to_plain(settings), "state": first.state_dict()}, path)
    saved = torch.load(path, weights_only=True)
    second = FasterRCNN(from_plain(DetectorSettings, saved["settings"])).eval()
    second.load_state_dict(saved["state"])
    (one,), (other,) = (d.detect([torch.ones(3, 64, 64)]) for d in (first, second))
    torch.testing.assert_close(one.boxes, other.boxes)


def test_simple_pyramid_doubles_and_halves_the_one_map() -> None:
    pyramid = SimplePyramid(in_channels=8, channels=6)
    levels = list(pyramid({"0": torch.rand(2, 8, 4, 6)}).values())
    assert [tuple(level.shape) for level in levels] == [
        *((2, 6, 16, 24), (2, 6, 8, 12), (2, 6, 4, 6), (2, 6, 2, 3), (2, 6, 1, 2)),
    ]
    torch.testing.assert_close(levels[4], levels[3][..., ::2, ::2])
    sum(level.sum() for level in levels[:4]).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


@pytest.mark.parametrize("name", [CONVNEXT, f"{CONVNEXT}_fpn", f"{VIT}_fpn"])
def test_levels_are_of_one_size_whatever_the_bodys_maps_are(name: str) -> None:
    backbone = build_network(random(name)).backbone.eval()
    theirs = backbone.body.forward
    backbone.body.forward = lambda pixels: [1000 * one for one in theirs(pixels)]
    with torch.no_grad():
        levels = backbone(torch.rand(1, 3, 64, 64))
    assert all(0.1 < level.std() < 3 for level in levels)
