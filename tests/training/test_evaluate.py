"""Testing a detector without a run."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch

from rcnn.data import ShapesSource
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.settings import DetectorSettings
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.evaluate import evaluate


def test_figures_are_those_of_the_trainer(
    settings: DetectorSettings, trainer: Callable[..., pl.Trainer]
) -> None:
    torch.manual_seed(0)
    generous = DetectionSettings(score=0.0, nms_iou=0.9)  # so that an untrained one finds something
    module = DetectionModule(replace(settings, detections=generous))
    data = DetectionDataModule(ShapesSource(test=8, size=64), LoaderSettings(workers=0))
    (expected,) = trainer().test(module, data, verbose=False)
    per_class = module.per_class["test"]
    found = evaluate(module, data.dataset("test"), workers=0)
    assert found.metrics["test/map_50"] > 0
    assert found.metrics == pytest.approx(expected, nan_ok=True)
    for name, figures in per_class.items():
        assert found.per_class[name] == pytest.approx(figures, nan_ok=True)
