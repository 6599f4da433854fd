"""Networks cut in two: the backbone sees images, the box head sees RoIs."""

from rcnn.model.backbones.backbone import (
    SHIPPED,
    Backbone,
    BackboneSettings,
    BoxHead,
    SplitNetwork,
    TwoMLPHead,
)
from rcnn.model.backbones.build import build_network
from rcnn.model.backbones.weights import LoadedWeights, WeightsError, WeightsWarning, resolve

__all__ = [
    "SHIPPED",
    "Backbone",
    "BackboneSettings",
    "BoxHead",
    "LoadedWeights",
    "SplitNetwork",
    "TwoMLPHead",
    "WeightsError",
    "WeightsWarning",
    "build_network",
    "resolve",
]
