"""Which layers take fewer multiplications, and when."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn.model.backbones import BackboneSettings
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.settings import DetectorSettings
from rcnn.training import winograd_conv
from rcnn.training.speed import SpeedSettings, prepare
from rcnn.training.winograd_conv import WinogradConv2d

PLAIN = SpeedSettings(channels_last=False, winograd=False)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that passed the faster way."""
    shapes: list[tuple[int, ...]] = []
    convolve = winograd_conv.convolve

    def watched(cells: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shapes.append(tuple(cells.shape))
        return convolve(cells, weight, bias)

    monkeypatch.setattr(winograd_conv, "convolve", watched)
    return shapes


def conv(**changes: Any) -> nn.Conv2d:
    plain = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1}
    return nn.Conv2d(**{**plain, **changes})


def test_a_layer_of_many_channels_fits() -> None:
    assert WinogradConv2d.fits(conv())


@pytest.mark.parametrize(
    "changes",
    [
        {"in_channels": 64},
        {"out_channels": 64},
        {"kernel_size": 1},
        {"kernel_size": (3, 1)},
        {"stride": 2},
        {"padding": 0},
        {"padding": "same"},
        {"dilation": 2},
        {"groups": 128},
        {"padding_mode": "reflect"},
    ],
)
def test_other_layers_do_not(changes: dict[str, Any]) -> None:
    assert not WinogradConv2d.fits(conv(**changes))


def test_a_layer_of_another_class_does_not() -> None:
    class Own(nn.Conv2d):
        pass

    assert not WinogradConv2d.fits(Own(128, 128, 3, padding=1))
    assert not WinogradConv2d.fits(WinogradConv2d(conv()))


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_same_layer(bias: bool, computed: list[tuple[int, ...]]) -> None:
    layer = conv(bias=bias).eval().requires_grad_(False)
    quick = WinogradConv2d(layer)
    assert quick.weight is layer.weight
    assert quick.bias is layer.bias
    assert list(quick.state_dict()) == list(layer.state_dict())
    assert not quick.training
    cells = torch.randn(64, 128, 4, 4)
    assert_close(quick(cells), layer(cells), atol=1e-5, rtol=1e-5)
    assert computed == [(64, 128, 4, 4)]


@pytest.mark.parametrize(
    ("shape", "pays"),
    [
        ((64, 128, 4, 4), True),
        ((63, 128, 4, 4), False),  # to transform the weights takes too long for so few
        ((1, 128, 32, 32), True),
        ((64, 128, 3, 3), True),
        ((64, 128, 2, 2), False),  # three of four cells of a tile would be outside
        ((64, 128, 5, 5), False),
        ((64, 128, 6, 6), True),
    ],
)
def test_it_is_taken_where_it_pays(
    shape: tuple[int, ...], pays: bool, computed: list[tuple[int, ...]]
) -> None:
    with torch.no_grad():
        WinogradConv2d(conv())(torch.randn(shape))
    assert computed == [shape] * pays


def test_mixed_precision_goes_the_usual_way(computed: list[tuple[int, ...]]) -> None:
    layer, cells = WinogradConv2d(conv()), torch.randn(64, 128, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(cells).dtype == torch.bfloat16
    assert layer.bfloat16()(cells.bfloat16()).dtype == torch.bfloat16
    assert computed == []


def test_another_device_goes_the_usual_way(computed: list[tuple[int, ...]]) -> None:
    layer = WinogradConv2d(conv().to("meta"))
    assert layer(torch.empty(64, 128, 4, 4, device="meta")).shape == (64, 128, 4, 4)
    assert computed == []


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet18_fpn"])
def test_a_detector_takes_it_in_all_its_parts(name: str, settings: DetectorSettings) -> None:
    backbone = BackboneSettings(name, frozen_stages=0, weights=None, hidden=8)
    with torch.device("meta"):
        detector = FasterRCNN(replace(settings, backbone=backbone))
    before = dict(detector.state_dict(keep_vars=True))
    fitting = sum(WinogradConv2d.fits(one) for one in detector.modules())
    assert fitting > 3
    prepare(detector, PLAIN)
    assert not any(isinstance(one, WinogradConv2d) for one in detector.modules())
    prepare(detector, SpeedSettings(channels_last=False))
    assert sum(isinstance(one, WinogradConv2d) for one in detector.modules()) == fitting
    after = detector.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[key] is value for key, value in before.items())
