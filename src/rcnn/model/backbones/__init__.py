"""Networks that compute features, each as a body (on images) and a tail (on RoIs)."""

from rcnn.model.backbones.backbone import (
    SHIPPED,
    Backbone,
    BackboneSettings,
    Body,
    FullyConnectedTail,
    Tail,
)
from rcnn.model.backbones.build import build_backbone
from rcnn.model.backbones.weights import LoadedWeights, WeightsError, WeightsWarning, resolve

__all__ = [
    "SHIPPED",
    "Backbone",
    "BackboneSettings",
    "Body",
    "FullyConnectedTail",
    "LoadedWeights",
    "Tail",
    "WeightsError",
    "WeightsWarning",
    "build_backbone",
    "resolve",
]
