"""A quick layer is the same layer, and the norm after it; which layers are, and when."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.kernels import conv as quick_conv
from rcnn.kernels.conv import FoldedNorm2d, QuickConv2d, fits_winograd
from rcnn.model.backbones import BackboneSettings
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.settings import DetectorSettings
from rcnn.model.speed import SpeedSettings, prepare

PLAIN = SpeedSettings(channels_last=False, winograd=False, fold_norms=False)

NAMES = ["vgg16", "vgg16_bn", "resnet18", "resnet50", "resnet18_fpn", "mobilenet_v3_large_fpn"]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that passed the faster way."""
    shapes: list[tuple[int, ...]] = []
    convolve = quick_conv.convolve

    def watched(cells: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shapes.append(tuple(cells.shape))
        return convolve(cells, weight, bias)

    monkeypatch.setattr(quick_conv, "convolve", watched)
    return shapes


def conv(**changes: Any) -> nn.Conv2d:
    plain = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1}
    return nn.Conv2d(**{**plain, **changes})


def test_a_layer_of_many_channels_fits() -> None:
    assert fits_winograd(conv())


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
    assert not fits_winograd(conv(**changes))


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_same_layer(bias: bool, computed: list[tuple[int, ...]]) -> None:
    layer = conv(bias=bias).eval().requires_grad_(False)
    quick = QuickConv2d(layer, None, winograd=True)
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
        QuickConv2d(conv(), None, winograd=True)(torch.randn(shape))
    assert computed == [shape] * pays


def test_mixed_precision_goes_the_usual_way(computed: list[tuple[int, ...]]) -> None:
    layer, cells = QuickConv2d(conv(), None, winograd=True), torch.randn(64, 128, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(cells).dtype == torch.bfloat16
    assert layer.bfloat16()(cells.bfloat16()).dtype == torch.bfloat16
    assert computed == []


def test_another_device_goes_the_usual_way(computed: list[tuple[int, ...]]) -> None:
    layer = QuickConv2d(conv().to("meta"), None, winograd=True)
    assert layer(torch.empty(64, 128, 4, 4, device="meta")).shape == (64, 128, 4, 4)
    assert computed == []


def norm(channels: int) -> FrozenBatchNorm2d:
    """A fixed norm of numbers that differ."""
    fixed = FrozenBatchNorm2d(channels, eps=0.1)
    for number, buffer in enumerate(fixed.buffers()):
        buffer.copy_(torch.rand(channels, generator=torch.Generator().manual_seed(number)) + 0.5)
    return fixed


def test_a_norm_by_hand_as_a_part_of_a_layer() -> None:
    fixed = FrozenBatchNorm2d(1, eps=0.0)
    for name, value in (
        ("weight", 3.0),
        ("bias", 1.0),
        ("running_mean", 5.0),
        ("running_var", 4.0),
    ):
        getattr(fixed, name).fill_(value)
    weight, bias = FoldedNorm2d(fixed).fold(torch.full((1, 1, 1, 1), 2.0), torch.tensor([7.0]))
    assert weight.item() == 2 * 3 / 2
    assert bias.item() == (7 - 5) * 3 / 2 + 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stride": 2},
        {"kernel_size": 1, "padding": 0},
        {"kernel_size": 1, "padding": 0, "stride": 2},
        {"groups": 128},
        {"padding": "same"},
        {"padding_mode": "reflect"},
        {"dilation": (2, 1), "padding": (2, 1)},
    ],
)
def test_a_layer_with_its_norm_is_both_of_them(bias: bool, changes: dict[str, Any]) -> None:
    layer, fixed = conv(bias=bias, **changes).double(), norm(128).double()
    quick = QuickConv2d(layer, FoldedNorm2d(fixed), winograd=not changes)
    cells = torch.randn(64, 128, 4, 4, dtype=torch.float64, requires_grad=True)
    learned = [cells, *layer.parameters()]
    found, expected = quick(cells), fixed(layer(cells))
    assert_close(found, expected)
    weights = torch.randn_like(found)
    gradients = zip(
        torch.autograd.grad(found, learned, weights),
        torch.autograd.grad(expected, learned, weights),
        strict=True,
    )
    for mine, other in gradients:
        assert_close(mine, other)


def test_a_folded_norm_has_the_state_of_the_norm_and_does_nothing() -> None:
    fixed = norm(4)
    folded = FoldedNorm2d(fixed)
    assert folded.eps == 0.1
    state = folded.state_dict(keep_vars=True)
    assert all(state[name] is buffer for name, buffer in fixed.named_buffers())
    assert len(state) == 4
    cells = torch.rand(1, 4, 2, 2)
    assert folded(cells) is cells


def test_a_copy_follows_its_own_norm() -> None:
    """As the averaged detector does, whose buffers are not the trained one's."""
    layers = nn.Sequential(conv(), norm(128))
    part = nn.ModuleDict({"backbone": layers})
    folded = FoldedNorm2d(layers[1])
    layers[0], layers[1] = QuickConv2d(layers[0], folded, winograd=True), folded
    cells = torch.randn(1, 128, 4, 4)
    before = part["backbone"](cells)
    copied = deepcopy(part)
    copied["backbone"][1].bias += 1
    assert_close(copied["backbone"](cells), before + 1)
    assert_close(part["backbone"](cells), before)


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_is_quick_in_all_its_parts(name: str, settings: DetectorSettings) -> None:
    backbone = BackboneSettings(name, frozen_stages=0, weights=None, hidden=8, norm="frozen")
    with torch.device("meta"):
        detector = FasterRCNN(replace(settings, backbone=backbone))
    before = dict(detector.state_dict(keep_vars=True))
    fitting = sum(isinstance(one, nn.Conv2d) and fits_winograd(one) for one in detector.modules())
    fixed = sum(isinstance(one, FrozenBatchNorm2d) for one in detector.modules())
    assert fitting > 3 or name.startswith("mobilenet")
    prepare(detector, PLAIN)
    assert not any(isinstance(one, QuickConv2d | FoldedNorm2d) for one in detector.modules())
    prepare(detector, SpeedSettings(channels_last=False))
    quick = [one for one in detector.modules() if isinstance(one, QuickConv2d)]
    assert sum(one.winograd for one in quick) == fitting
    assert sum(isinstance(one, FoldedNorm2d) for one in detector.modules()) == fixed
    assert all(one.weight.is_meta for one in quick)
    after = detector.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[key] is value for key, value in before.items())
    prepare(detector, SpeedSettings(channels_last=False))
    assert [one for one in detector.modules() if isinstance(one, QuickConv2d)] == quick


@pytest.mark.parametrize("name", NAMES)
def test_folded_norms_change_nothing(name: str, settings: DetectorSettings) -> None:
    """Each norm of a backbone has its own numbers, so that none can take another's place."""
    backbone = BackboneSettings(name, frozen_stages=0, weights=None, hidden=8, norm="frozen")
    detector = FasterRCNN(replace(settings, backbone=backbone)).double().eval()
    for fixed in detector.modules():
        if isinstance(fixed, FrozenBatchNorm2d):
            for key, value in norm(len(fixed.weight)).double().state_dict().items():
                getattr(fixed, key).copy_(value)
    quick = deepcopy(detector)
    prepare(quick, SpeedSettings(winograd=False))
    pixels = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    for mine, other in zip(quick.backbone(pixels), detector.backbone(pixels), strict=True):
        assert_close(mine, other)
    pooled = torch.rand(2, detector.backbone.channels, 7, 7, dtype=torch.float64)
    assert_close(quick.roi_heads.box_head(pooled), detector.roi_heads.box_head(pooled))
