"""Networks cut in two: the backbone sees images, the box head sees RoIs."""

from rcnn.model.backbones.backbone import (
    SHIPPED,
    TORCHVISION,
    Backbone,
    BackboneSettings,
    BoxHead,
    SplitNetwork,
    TwoMLPHead,
)
from rcnn.model.backbones.build import IMAGENET, build_network, normalisation
from rcnn.model.backbones.weights import LoadedWeights, WeightsError, WeightsWarning, resolve

__all__ = [
    "IMAGENET",
    "SHIPPED",
    "TORCHVISION",
    "Backbone",
    "BackboneSettings",
    "BoxHead",
    "LoadedWeights",
    "SplitNetwork",
    "TwoMLPHead",
    "WeightsError",
    "WeightsWarning",
    "build_network",
    "normalisation",
    "resolve",
]
