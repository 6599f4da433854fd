"""R-CNN, SPP-net, Fast and Faster R-CNN for research: PyTorch detectors, trained by Lightning.

Names are imported when they are first used, so that ``import rcnn`` alone is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcnn import data, inference, interop, metrics, model, ops, report, training, view
    from rcnn.data.augment import AugmentSettings
    from rcnn.model.anchors import AnchorSettings
    from rcnn.model.backbones import BackboneSettings
    from rcnn.model.box_predictor import BoxPredictorSettings
    from rcnn.model.fast_rcnn import FastRCNN
    from rcnn.model.faster_rcnn import FasterRCNN
    from rcnn.model.losses import LossSettings
    from rcnn.model.postprocess import DetectionSettings
    from rcnn.model.proposal_network import ProposalNetwork
    from rcnn.model.proposals import ProposalSettings
    from rcnn.model.rcnn import RCNN
    from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
    from rcnn.model.rpn import RPNSettings
    from rcnn.model.settings import DeltaSettings, DetectorSettings
    from rcnn.model.speed import SpeedSettings
    from rcnn.model.sppnet import SPPNet
    from rcnn.model.targets import AnchorSampling, RoISampling
    from rcnn.model.transform import ImageSettings
    from rcnn.settings import SettingsError
    from rcnn.training.checkpoints import load
    from rcnn.training.datamodule import DetectionDataModule, LoaderSettings
    from rcnn.training.module import DetectionModule

__version__ = "0.2.0"

_HOMES = {
    "AnchorSampling": "rcnn.model.targets",
    "AnchorSettings": "rcnn.model.anchors",
    "AugmentSettings": "rcnn.data.augment",
    "BackboneSettings": "rcnn.model.backbones",
    "BoxPredictorSettings": "rcnn.model.box_predictor",
    "DeltaSettings": "rcnn.model.settings",
    "DetectionDataModule": "rcnn.training.datamodule",
    "DetectionModule": "rcnn.training.module",
    "DetectionSettings": "rcnn.model.postprocess",
    "DetectorSettings": "rcnn.model.settings",
    "FastRCNN": "rcnn.model.fast_rcnn",
    "FasterRCNN": "rcnn.model.faster_rcnn",
    "ImageSettings": "rcnn.model.transform",
    "LoaderSettings": "rcnn.training.datamodule",
    "LossSettings": "rcnn.model.losses",
    "PoolingSettings": "rcnn.model.roi_pooling",
    "ProposalNetwork": "rcnn.model.proposal_network",
    "ProposalSettings": "rcnn.model.proposals",
    "RCNN": "rcnn.model.rcnn",
    "RPNSettings": "rcnn.model.rpn",
    "RoISampling": "rcnn.model.targets",
    "SPPNet": "rcnn.model.sppnet",
    "SettingsError": "rcnn.settings",
    "SpeedSettings": "rcnn.model.speed",
    "WarpSettings": "rcnn.model.roi_pooling",
    "load": "rcnn.training.checkpoints",
}
_PACKAGES = (
    *("data", "inference", "interop", "metrics", "model"),
    *("ops", "report", "training", "view"),
)

__all__ = [
    "RCNN",
    "AnchorSampling",
    "AnchorSettings",
    "AugmentSettings",
    "BackboneSettings",
    "BoxPredictorSettings",
    "DeltaSettings",
    "DetectionDataModule",
    "DetectionModule",
    "DetectionSettings",
    "DetectorSettings",
    "FastRCNN",
    "FasterRCNN",
    "ImageSettings",
    "LoaderSettings",
    "LossSettings",
    "PoolingSettings",
    "ProposalNetwork",
    "ProposalSettings",
    "RPNSettings",
    "RoISampling",
    "SPPNet",
    "SettingsError",
    "SpeedSettings",
    "WarpSettings",
    "data",
    "inference",
    "interop",
    "load",
    "metrics",
    "model",
    "ops",
    "report",
    "training",
    "view",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"rcnn.{name}")
    raise AttributeError(f"module 'rcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
