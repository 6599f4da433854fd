"""A small detector, and small data to train it on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from rcnn.data import DataSource, ShapesSource
from rcnn.data.stored import ProposalWriter
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import RoISampling
from rcnn.model.transform import ImageSettings
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
        warnings.filterwarnings("ignore", ".*custom batch sampler.*")
        warnings.filterwarnings("ignore", "Found .* module\\(s\\) in eval mode")
        yield


@pytest.fixture
def settings() -> DetectorSettings:
    return DetectorSettings(
        NAMES,
        images=ImageSettings(shorter_side=64, longer_side=64),
        backbone=BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None),
        anchors=AnchorSettings(scales=(1.0, 2.0)),
        roi_sampling=RoISampling(samples=16),
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
def propose(tmp_path: Path) -> Callable[[DataSource], Path]:
    """Writes the proposals of all splits of a source: exactly the objects, in their order."""

    def write(source: DataSource) -> Path:
        folder = tmp_path / "proposals"
        folder.mkdir()
        for split in ("train", "val", "test"):
            dataset = source.dataset(split)
            with ProposalWriter(folder / f"{split}.proposals", dataset, "the objects") as writer:
                for index, image_id in enumerate(dataset.image_ids):
                    writer.add(image_id, dataset.ground_truth(index).boxes)
                writer.finish()
        return folder

    return write


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
