"""The two outputs of the box head (Fast R-CNN, section 2.1).

Letters: N RoIs of a minibatch, D features of a RoI, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from rcnn.ops.losses import Classifier


@dataclass(frozen=True)
class HeadSettings:
    """The shape of the head.

    Attributes:
        class_agnostic: one box per RoI instead of one per class.
        box_regression: without it there is no box output and no box loss, and a proposal is the
            box (Fast R-CNN, table 6).
        classifier: ``softmax`` over background and the classes (Fast R-CNN, section 2.1); or
            ``one_vs_rest``: a logistic for each class, whose losses are summed, in the manner of
            R-CNN's classifiers (Fast R-CNN, section 5.4). Background's logit is then not used.
    """

    class_agnostic: bool = False
    box_regression: bool = True
    classifier: Classifier = "softmax"


class HeadOutput(NamedTuple):
    """Logits (background first) and normalised deltas, for each RoI.

    There is one set of deltas for background and each class, one in all if class-agnostic, or None
    without box regression.
    """

    logits: Float[Tensor, "*n K1"]
    deltas: Float[Tensor, "*n D 4"] | None


class BoxHead(nn.Module):
    """Two sibling linear layers: which class, and where exactly."""

    def __init__(self, settings: HeadSettings, in_channels: int, num_classes: int) -> None:
        super().__init__()
        sets = 1 if settings.class_agnostic else num_classes + 1
        # Fast R-CNN, section 2.3
        self.classes = _linear(in_channels, num_classes + 1, std=0.01)
        self.boxes = _linear(in_channels, 4 * sets, std=0.001) if settings.box_regression else None

    def forward(self, features: Float[Tensor, "N F"]) -> HeadOutput:
        """Return class logits and box deltas."""
        # (N, 4 D) -> (N, D, 4)
        deltas = None if self.boxes is None else self.boxes(features).unflatten(1, (-1, 4))
        return HeadOutput(self.classes(features), deltas)


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
