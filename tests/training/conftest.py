"""A small detector, and small data to train it on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from rcnn.data import ShapesSource
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.images import ImageSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import RoISampling
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.optim import AdamWCosine

NAMES = ("circle", "square", "triangle")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lightning's advice is no failure."""
    import warnings

    with warnings.catch_warnings():
        for message in (".*does not have many workers.*", ".*smaller than the logging interval.*"):
            warnings.filterwarnings("ignore", message)
        warnings.filterwarnings("ignore", ".*recommended to use `self.log.*sync_dist.*")
        yield


@pytest.fixture
def settings() -> DetectorSettings:
    return DetectorSettings(
        NAMES,
        images=ImageSettings(shorter_side=64, longer_side=64),
        backbone=BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None),
        anchors=AnchorSettings(scales=(1.0, 2.0)),
        roi_sampling=RoISampling(rois=16),
    )


@pytest.fixture
def module(settings: DetectorSettings) -> DetectionModule:
    torch.manual_seed(0)
    return DetectionModule(settings, recipe=AdamWCosine(warmup_steps=1))


@pytest.fixture
def data() -> DetectionDataModule:
    source = ShapesSource(train=4, val=2, test=3, size=64)
    return DetectionDataModule(source, LoaderSettings(workers=0))


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """Makes a silent trainer that writes into the test's folder."""

    def make(epochs: int = 1, callbacks: list[pl.Callback] | None = None) -> pl.Trainer:
        return pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
        )

    return make
