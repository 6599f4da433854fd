"""Every shipped backbone, and a user's own, from its settings."""

import dataclasses
from typing import Literal

import pytest
import torch

from rcnn.model.backbones import SHIPPED, Backbone, BackboneSettings, BoxHead, build_network
from rcnn.settings import SettingsError

PYRAMID = (4, 8, 16, 32, 64)
LAYOUT = {
    "vgg16": ((16,), 512, 1, 4096),
    "vgg16_bn": ((16,), 512, 1, 4096),
    "resnet18": ((16,), 256, 1, 512),
    "resnet34": ((16,), 256, 1, 512),
    "resnet50": ((16,), 1024, 1, 2048),
    "resnet101": ((16,), 1024, 1, 2048),
    "resnet152": ((16,), 1024, 1, 2048),
    "resnet18_fpn": (PYRAMID, 256, 4, 1024),
    "resnet34_fpn": (PYRAMID, 256, 4, 1024),
    "resnet50_fpn": (PYRAMID, 256, 4, 1024),
    "resnet101_fpn": (PYRAMID, 256, 4, 1024),
    "resnet152_fpn": (PYRAMID, 256, 4, 1024),
    "mobilenet_v3_large_fpn": ((32, 32, 64), 256, 2, 1024),
    "efficientnet_lite0": ((16,), 112, 1, 1280),
    "efficientnet_lite0_fpn": (PYRAMID, 256, 4, 1024),
}
NAMES = ("vgg16", "resnet18", "resnet18_fpn", "mobilenet_v3_large_fpn", "efficientnet_lite0")


@pytest.mark.parametrize("name", SHIPPED)
def test_levels_and_vectors_have_the_promised_shapes(name: str) -> None:
    strides, channels, roi_levels, width = LAYOUT[name]
    with torch.device("meta"):  # shapes without arithmetic
        backbone, box_head = _parts(BackboneSettings(name=name))
        levels = backbone(torch.empty(2, 3, 128, 192))
        vectors = {rois: box_head(torch.empty(rois, channels, 7, 7)) for rois in (0, 1, 3)}

    assert (backbone.strides, backbone.channels, backbone.roi_levels) == (
        strides,
        channels,
        roi_levels,
    )
    assert [tuple(level.shape) for level in levels] == [
        (2, channels, 128 // stride, 192 // stride) for stride in strides
    ]
    assert box_head.channels == width
    assert {rois: tuple(vector.shape) for rois, vector in vectors.items()} == {
        rois: (rois, width) for rois in (0, 1, 3)
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pooled_size", [3, 14])
def test_box_head_takes_the_pooled_size_it_was_built_for(name: str, pooled_size: int) -> None:
    with torch.device("meta"):
        backbone, box_head = _parts(BackboneSettings(name=name), pooled_size**2)
        vectors = box_head(torch.empty(2, backbone.channels, pooled_size, pooled_size))
    assert vectors.shape == (2, box_head.channels)


@pytest.mark.parametrize("name", ["resnet18", "resnet18_fpn", "efficientnet_lite0"])
@pytest.mark.parametrize("training", [True, False])
def test_no_rois_give_no_vectors_and_leave_the_statistics_alone(name: str, training: bool) -> None:
    backbone, box_head = _parts(BackboneSettings(name=name), cells=16)
    before = {key: value.clone() for key, value in box_head.state_dict().items()}
    vectors = box_head.train(training)(torch.empty(0, backbone.channels, 4, 4))
    vectors.sum().backward()
    assert vectors.shape == (0, box_head.channels)
    for key, value in box_head.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, before[key])


@pytest.mark.parametrize("name", NAMES[1:])
def test_backbone_is_one_graph_without_decisions_and_keeps_channels_last(name: str) -> None:
    backbone, _ = _parts(BackboneSettings(name=name, norm="frozen"))
    backbone = backbone.eval().to(memory_format=torch.channels_last)
    pixels = torch.rand(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = backbone(pixels)
        graph = torch.export.export(backbone, (pixels,), strict=False).module()
        traced = graph(pixels)
    assert expected[0].is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(traced, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("name", "box_head", "stages"),
    [
        *((name, "own", 6 if name.startswith("mobilenet") else 5) for name in NAMES),
        *(("resnet18", "two_mlp", 4), ("efficientnet_lite0", "two_mlp", 4)),
        *(("resnet18_fpn", "two_mlp", 5), ("efficientnet_lite0_fpn", "own", 5)),
    ],
)
def test_more_frozen_stages_than_there_are_is_an_error(
    name: str, box_head: Literal["own", "two_mlp"], stages: int
) -> None:
    settings = BackboneSettings(name=name, box_head=box_head, frozen_stages=stages)
    with torch.device("meta"):
        build_network(settings)
        with pytest.raises(
            SettingsError, match=rf"frozen_stages={stages + 1} .*{name} has {stages} stages"
        ):
            build_network(dataclasses.replace(settings, frozen_stages=stages + 1))


@pytest.mark.parametrize(
    ("name", "hidden", "width"),
    [
        *(("resnet18", None, 1024), ("resnet50", 64, 64), ("efficientnet_lite0", None, 1024)),
        *(("vgg16", None, 4096), ("vgg16", 64, 64)),
    ],
)
def test_a_two_mlp_head_is_two_layers_on_the_pooled_cells(
    name: str, hidden: int | None, width: int
) -> None:
    with torch.device("meta"):
        backbone, box_head = _parts(
            BackboneSettings(name, box_head="two_mlp", hidden=hidden, dropout=0.25), cells=4
        )
        vectors = box_head(torch.empty(3, backbone.channels, 2, 2))
    assert vectors.shape == (3, width)
    assert (box_head.fc6.in_features, box_head.fc7.in_features) == (4 * backbone.channels, width)
    assert box_head.dropout.p == 0.25


def test_a_two_mlp_head_is_what_a_pyramid_has_anyway() -> None:
    with torch.device("meta"):
        own, linear = (
            _parts(BackboneSettings(name="resnet18_fpn", box_head=box_head))[1].state_dict()
            for box_head in ("own", "two_mlp")
        )
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in linear.items()}


@pytest.mark.parametrize(
    ("name", "box_head"),
    [
        *(("vgg16", "own"), ("resnet18", "two_mlp"), ("resnet18_fpn", "own")),
        *(("efficientnet_lite0", "two_mlp"), ("efficientnet_lite0_fpn", "own")),
    ],
)
def test_ranks_reach_every_two_mlp_head(name: str, box_head: Literal["own", "two_mlp"]) -> None:
    with torch.device("meta"):
        _, built = _parts(BackboneSettings(name=name, box_head=box_head, hidden=32, ranks=(5, 0)))
    assert (built.fc6.first.out_features, built.fc7.out_features) == (5, 32)


def test_own_backbone_that_passes_ranks_over_is_an_error(own_backbone: BackboneSettings) -> None:
    with pytest.raises(SettingsError, match=r"backbone\.ranks=\(2, 0\).*built without them"):
        build_network(dataclasses.replace(own_backbone, ranks=(2, 0)), cells=4)


def test_a_number_of_cells_below_one_is_an_error() -> None:
    with pytest.raises(SettingsError, match="cells=0"):
        build_network(BackboneSettings(), cells=0)


def test_own_backbone_plugs_in_by_its_dotted_path(own_backbone: BackboneSettings) -> None:
    network = build_network(own_backbone, cells=4)
    (level,) = network.backbone(torch.rand(1, 3, 16, 24))
    assert level.shape == (1, 5, 2, 3)
    assert network.box_head(torch.rand(3, 5, 2, 2)).shape == (3, 6)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a_package_nobody_has.build", "No module named 'a_package_nobody_has'"),
        ("someones_project.biuld", "has no attribute 'biuld'"),
        ("someones_broken_project.build", "No module named 'a_package_nobody_has'"),
        ("someones_project.number", "this is a int, no callable"),
        ("someones_project.forgets_to_return", "the callable returned a NoneType"),
        ("resnet50.fpn", "did you mean 'resnet50_fpn'"),
    ],
)
def test_dotted_path_that_fails_is_an_error_with_path_and_reason(
    own_backbone: BackboneSettings, name: str, reason: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        build_network(dataclasses.replace(own_backbone, name=name))
    assert f"backbone.name={name!r}" in str(caught.value)
    assert reason in str(caught.value)


def _parts(settings: BackboneSettings, cells: int = 49) -> tuple[Backbone, BoxHead]:
    network = build_network(settings, cells)
    return network.backbone, network.box_head
