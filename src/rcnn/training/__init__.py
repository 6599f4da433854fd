"""The detectors in Lightning: module, data, callbacks, optimisers."""

from rcnn.training.datamodule import DetectionDataModule, LoaderSettings
from rcnn.training.module import DetectionModule

__all__ = ["DetectionDataModule", "DetectionModule", "LoaderSettings"]
