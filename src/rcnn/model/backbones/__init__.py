"""Networks that compute features, each as a body (on images) and a tail (on RoIs)."""

from rcnn.model.backbones.backbone import Backbone, Body, Tail
from rcnn.model.backbones.build import build_backbone
from rcnn.model.backbones.fully_connected import FullyConnectedTail
from rcnn.model.backbones.loading import LoadedWeights
from rcnn.model.backbones.settings import SHIPPED, BackboneSettings
from rcnn.model.backbones.weight_file import WeightsError
from rcnn.model.backbones.weights import WeightsWarning, resolve

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
