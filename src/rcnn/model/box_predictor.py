"""The two sibling outputs for each RoI: class logits and box deltas (Fast R-CNN, section 2.1).

Letters: N RoIs of a minibatch, D features of a RoI, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from rcnn.ops.losses import Classifier
from rcnn.settings import settings


@settings
class BoxPredictorSettings:
    """Shape and kind of the two outputs.

    Attributes:
        class_agnostic: predict one box per RoI instead of one per class.
        box_regression: predict boxes; without, proposals are the boxes and there is no box loss
            (Fast R-CNN, table 6).
        classifier: ``softmax`` over background and the classes (Fast R-CNN, section 2.1); or
            ``one_vs_rest``: a logistic for each class, with the sum of their losses, in the manner
            of R-CNN's classifiers (Fast R-CNN, section 5.4). Background's logit has no effect then.
    """

    class_agnostic: bool = False
    box_regression: bool = True
    classifier: Classifier = "softmax"


class BoxPredictions(NamedTuple):
    """Logits (background first) and normalised deltas, for each RoI.

    There is one set of deltas for background and each class, one in all if class-agnostic, or None
    without box regression.
    """

    logits: Float[Tensor, "*n K1"]
    deltas: Float[Tensor, "*n D 4"] | None


class BoxPredictor(nn.Module):
    """Two sibling linear layers: which class, and where exactly."""

    def __init__(self, settings: BoxPredictorSettings, in_channels: int, num_classes: int) -> None:
        super().__init__()
        sets = 1 if settings.class_agnostic else num_classes + 1
        # Fast R-CNN, section 2.3
        self.cls_score = _linear(in_channels, num_classes + 1, std=0.01)
        boxes = settings.box_regression
        self.bbox_pred = _linear(in_channels, 4 * sets, std=0.001) if boxes else None

    def forward(self, features: Float[Tensor, "N F"]) -> BoxPredictions:
        """Return class logits and box deltas."""
        # (N, 4 D) -> (N, D, 4)
        deltas = None if self.bbox_pred is None else self.bbox_pred(features).unflatten(1, (-1, 4))
        return BoxPredictions(self.cls_score(features), deltas)


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
