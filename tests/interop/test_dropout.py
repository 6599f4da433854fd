"""Dropout of box heads as people write them."""

import pytest
import torch
import torch.nn.functional as F
from rcnn.interop.dropout import read_dropout
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from rcnn.interop import InteropError


def listed(*dropped: float) -> nn.Sequential:
    """Flatten, fc6, fc7 as in VGG's classifier, with a dropout after as many as are given."""
    drops: list[nn.Module] = [nn.Dropout(p) for p in dropped]
    drops += [nn.Identity()] * (2 - len(drops))
    return nn.Sequential(
        nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), drops[0], nn.Linear(16, 16), nn.ReLU(), drops[1]
    )


class Written(TwoMLPHead):
    """One module that is called twice."""

    def __init__(self, probability: float) -> None:
        super().__init__(8, 16)
        self.drop = nn.Dropout(probability)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.fc6(x.flatten(1))))
        return self.drop(F.relu(self.fc7(x)))


class Functional(TwoMLPHead):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5, self.training)


@pytest.mark.parametrize(
    ("head", "probability"),
    [
        (TwoMLPHead(8, 16), 0.0),
        (listed(), 0.0),
        (listed(0.5, 0.5), 0.5),
        (listed(0.0, 0.0), 0.0),
        (Written(0.3), 0.3),
    ],
)
def test_probability_is_read_where_dropout_follows_both_layers(
    head: nn.Module, probability: float
) -> None:
    assert read_dropout(head, channels=2, pooled_size=2) == probability


@pytest.mark.parametrize("head", [listed(0.5), listed(0.2, 0.3), Functional(8, 16)])
def test_other_dropout_is_refused(head: nn.Module) -> None:
    torch.manual_seed(0)
    with pytest.raises(InteropError, match=r"two calls of nn.Dropout with one probability"):
        read_dropout(head, channels=2, pooled_size=2)


def test_reading_leaves_the_head_and_the_source_of_randomness_as_they_were() -> None:
    head = listed(0.5, 0.5).eval()
    head[3].train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    read_dropout(head, channels=2, pooled_size=2)
    assert torch.equal(torch.rand(1), expected)
    assert [layer.training for layer in head] == [False] * 3 + [True] + [False] * 3
    assert not any(layer._forward_hooks for layer in head)
