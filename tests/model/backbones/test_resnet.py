"""ResNets cut after their fourth stage."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from rcnn.model.backbones import BackboneSettings, LoadedWeights, build_network


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_resnet_computes_what_torchvisions_does(
    norm: Literal["batch", "frozen"],
    randomise: Callable[[nn.Module], dict[str, Tensor]],
    pixels: Tensor,
) -> None:
    theirs = get_model("resnet18").eval()
    ours = build_network(BackboneSettings(name="resnet18", norm=norm))
    LoadedWeights("test", "test", randomise(theirs)).load_into(ours)
    ours.backbone.eval()
    ours.box_head.eval()

    with torch.no_grad():
        square = pixels[..., :64]
        (level,) = ours.backbone(square)
        vectors = ours.box_head(level)
        torch.testing.assert_close(theirs.fc(vectors), theirs(square))


def test_seven_pooled_cells_become_four_in_the_box_head() -> None:
    with torch.device("meta"):
        box_head = build_network(BackboneSettings(name="resnet18")).box_head
        assert box_head.layer4(torch.empty(1, 256, 7, 7)).shape == (1, 512, 4, 4)
