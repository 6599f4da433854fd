"""The two outputs of the box head (Fast R-CNN, section 2.1).

Letters: N RoIs of a minibatch, D features of a RoI, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadSettings:
    """The shape of the head.

    Attributes:
        class_agnostic: one box per RoI instead of one per class.
    """

    class_agnostic: bool = False


class HeadOutput(NamedTuple):
    """Scores before the softmax (background first) and normalised deltas, for each RoI.

    There is one set of deltas for background and each class, or one in all if class-agnostic.
    """

    logits: Float[Tensor, "*n K1"]
    deltas: Float[Tensor, "*n D 4"]


class BoxHead(nn.Module):
    """Two sibling linear layers: which class, and where exactly."""

    def __init__(self, settings: HeadSettings, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(in_channels, num_classes + 1)
        self.boxes = nn.Linear(in_channels, 4 * (1 if settings.class_agnostic else num_classes + 1))
        # Fast R-CNN, section 2.3
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.boxes.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.boxes.bias)

    def forward(self, features: Float[Tensor, "N F"]) -> HeadOutput:
        """Return class logits and box deltas."""
        # (N, 4 D) -> (N, D, 4)
        return HeadOutput(self.classes(features), self.boxes(features).unflatten(1, (-1, 4)))
