"""A fast layer is the same layer, and the norm after it; which layers are fast, and when."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.kernels import conv as conv_kernel
from rcnn.kernels.conv import FastConv2d, FoldedNorm2d, fits_winograd
from rcnn.kernels.winograd import convolve


@pytest.fixture
def by_winograd(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the maps that Winograd's algorithm computes."""
    shapes: list[tuple[int, ...]] = []

    def watched(cells: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shapes.append(tuple(cells.shape))
        return convolve(cells, weight, bias)

    monkeypatch.setattr(conv_kernel, "convolve", watched)
    return shapes


def conv(**changes: Any) -> nn.Conv2d:
    plain = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1}
    return nn.Conv2d(**{**plain, **changes})


def norm(channels: int) -> FrozenBatchNorm2d:
    """A fixed norm of numbers that differ."""
    fixed = FrozenBatchNorm2d(channels, eps=0.1)
    for number, buffer in enumerate(fixed.buffers()):
        buffer.copy_(torch.rand(channels, generator=torch.Generator().manual_seed(number)) + 0.5)
    return fixed


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
def test_only_layers_of_3_x_3_and_many_channels_fit(changes: dict[str, Any]) -> None:
    assert fits_winograd(conv())
    assert not fits_winograd(conv(**changes))


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_same_layer(bias: bool, by_winograd: list[tuple[int, ...]]) -> None:
    layer = conv(bias=bias).eval().requires_grad_(False)
    fast = FastConv2d(layer, None, winograd=True)
    assert fast.weight is layer.weight
    assert fast.bias is layer.bias
    assert list(fast.state_dict()) == list(layer.state_dict())
    assert not fast.training
    cells = torch.randn(64, 128, 4, 4)
    assert_close(fast(cells), layer(cells), atol=1e-5, rtol=1e-5)
    assert by_winograd == [(64, 128, 4, 4)]


@pytest.mark.parametrize(
    ("shape", "pays"),
    [
        ((64, 128, 4, 4), True),
        ((63, 128, 4, 4), False),  # the transform of the weights takes too long for so few
        ((1, 128, 32, 32), True),
        ((64, 128, 3, 3), True),
        ((64, 128, 2, 2), False),  # three of four cells of a tile would be outside
        ((64, 128, 5, 5), False),
        ((64, 128, 6, 6), True),
    ],
)
def test_winograd_is_chosen_where_it_pays(
    shape: tuple[int, ...], pays: bool, by_winograd: list[tuple[int, ...]]
) -> None:
    with torch.no_grad():
        FastConv2d(conv(), None, winograd=True)(torch.randn(shape))
    assert by_winograd == [shape] * pays


def test_mixed_precision_and_other_devices_compute_as_usual(
    by_winograd: list[tuple[int, ...]],
) -> None:
    layer, cells = FastConv2d(conv(), None, winograd=True), torch.randn(64, 128, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(cells).dtype == torch.bfloat16
    assert layer.bfloat16()(cells.bfloat16()).dtype == torch.bfloat16
    on_meta = FastConv2d(conv().to("meta"), None, winograd=True)
    assert on_meta(cells.to("meta")).shape == (64, 128, 4, 4)
    assert by_winograd == []


def test_a_folded_norm_by_hand() -> None:
    fixed = FrozenBatchNorm2d(1, eps=0.0)
    numbers = {"weight": 3.0, "bias": 1.0, "running_mean": 5.0, "running_var": 4.0}
    for name, value in numbers.items():
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
    fast = FastConv2d(layer, FoldedNorm2d(fixed), winograd=not changes)
    cells = torch.randn(64, 128, 4, 4, dtype=torch.float64, requires_grad=True)
    inputs = [cells, *layer.parameters()]
    found, expected = fast(cells), fixed(layer(cells))
    assert_close(found, expected)
    weights = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(one, inputs, weights) for one in (found, expected))
    assert_close(ours, theirs)


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
    """As the averaged detector does, with buffers that differ from the trained one's."""
    folded = FoldedNorm2d(norm(128))
    layers = nn.Sequential(FastConv2d(conv(), folded, winograd=True), folded)
    part = nn.ModuleDict({"backbone": layers})
    cells = torch.randn(1, 128, 4, 4)
    before = part["backbone"](cells)
    copied = deepcopy(part)
    copied["backbone"].get_buffer("1.bias").add_(1)
    assert_close(copied["backbone"](cells), before + 1)
    assert_close(part["backbone"](cells), before)
