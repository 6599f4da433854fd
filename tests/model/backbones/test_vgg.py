"""VGG-16 cut into conv1_1 to conv5_3 and fc6, fc7."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg16, vgg16_bn

from rcnn.model.backbones import BackboneSettings, LoadedWeights, build_network

Randomise = Callable[[nn.Module], dict[str, Tensor]]


def test_vgg16_computes_what_torchvisions_does(randomise: Randomise, pixels: Tensor) -> None:
    settings = BackboneSettings(name="vgg16")
    with torch.device("meta"):  # spares the initialisation of 138 million weights, twice
        theirs, ours = vgg16(), build_network(settings)
    theirs.to_empty(device="cpu").eval()
    ours.backbone.to_empty(device="cpu")
    ours.box_head.to_empty(device="cpu").eval()
    LoadedWeights("test", "test", randomise(theirs)).load_into(ours)

    with torch.no_grad():
        (level,) = ours.backbone(pixels)
        torch.testing.assert_close(nn.functional.max_pool2d(level, 2), theirs.features(pixels))
        pooled = torch.rand(3, 512, 7, 7)
        torch.testing.assert_close(ours.box_head(pooled), theirs.classifier[:6](pooled.flatten(1)))


def test_vgg16_with_batch_norm_computes_what_torchvisions_does(
    randomise: Randomise, pixels: Tensor
) -> None:
    theirs = vgg16_bn(num_classes=1, init_weights=False).features.eval()
    ours = build_network(BackboneSettings(name="vgg16_bn", norm="frozen"), cells=1)
    ours.backbone.features.load_state_dict(randomise(theirs), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(ours.backbone(pixels)[0], theirs[:-1](pixels))


def test_random_linear_layers_are_drawn_as_torchvision_draws_them() -> None:
    box_head = build_network(BackboneSettings(name="vgg16"), cells=1).box_head
    torch.testing.assert_close(box_head.fc6.weight.std().item(), 0.01, rtol=0.02, atol=0)
    torch.testing.assert_close(box_head.fc7.weight.std().item(), 0.01, rtol=0.02, atol=0)
    assert not box_head.fc6.bias.any()


@pytest.mark.parametrize(
    ("changes", "cells", "random"),
    [
        ({}, 49, "The backbone starts from a file"),
        ({}, 50, ", with random box_head.fc6"),
        ({"hidden": 512}, 49, ", with random box_head"),
        ({"ranks": (16, 0)}, 49, ", with random box_head.fc6"),
        ({"ranks": (0, 16)}, 49, ", with random box_head.fc7"),
    ],
)
def test_what_cannot_have_the_shape_of_the_pretrained_layer_starts_at_random(
    changes: dict[str, Any], cells: int, random: str
) -> None:
    with torch.device("meta"):
        published = vgg16().state_dict()
        ours = build_network(replace(BackboneSettings(name="vgg16"), **changes), cells)
    sentence = LoadedWeights("test", "a file", published).load_into(ours)
    assert sentence.endswith(f"{random}.")
