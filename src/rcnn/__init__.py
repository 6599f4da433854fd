"""Fast R-CNN and Faster R-CNN for research: PyTorch detectors, trained by Lightning.

Names are imported when they are first used, so that ``import rcnn`` alone is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcnn import interop, metrics, ops
    from rcnn.model.fast_rcnn import FastRCNN
    from rcnn.model.faster_rcnn import FasterRCNN
    from rcnn.model.settings import DetectorSettings
    from rcnn.training.datamodule import DetectionDataModule, LoaderSettings
    from rcnn.training.module import DetectionModule, load

__version__ = "0.1.0"

_HOMES = {
    "DetectionDataModule": "rcnn.training.datamodule",
    "DetectionModule": "rcnn.training.module",
    "DetectorSettings": "rcnn.model.settings",
    "FastRCNN": "rcnn.model.fast_rcnn",
    "FasterRCNN": "rcnn.model.faster_rcnn",
    "LoaderSettings": "rcnn.training.datamodule",
    "load": "rcnn.training.module",
}
_PACKAGES = ("data", "interop", "metrics", "model", "ops", "training", "view")

__all__ = [
    "DetectionDataModule",
    "DetectionModule",
    "DetectorSettings",
    "FastRCNN",
    "FasterRCNN",
    "LoaderSettings",
    "interop",
    "load",
    "metrics",
    "ops",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"rcnn.{name}")
    raise AttributeError(f"module 'rcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PACKAGES})
