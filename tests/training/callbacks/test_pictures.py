"""Pictures of fixed validation images."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rcnn.data import ShapesSource
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageSettings
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.callbacks import Pictures


def test_detections_and_sampled_rois_go_to_files_and_to_tensorboard(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = DetectorSettings(
        ("circle", "square", "triangle"),
        images=ImageSettings(64, 64),
        backbone=BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None),
        anchors=AnchorSettings(scales=(1.0, 2.0)),
    )
    data = DetectionDataModule(
        ShapesSource(train=2, val=3, test=1, size=64), LoaderSettings(workers=0)
    )
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[Pictures(tmp_path / "pictures", images=2)],
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.validate(DetectionModule(settings), data, verbose=False)
    logger.experiment.flush()
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "pictures").rglob("*.png"))
    names = [f"pictures/{kind}/{n}.png" for kind in ("detections", "sampled_rois") for n in (0, 1)]
    assert [str(path) for path in files] == names
    with Image.open(tmp_path / "pictures" / "detections" / "0.png") as picture:
        assert picture.size[0] > picture.size[1]  # two panels side by side
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert set(events.Tags()["images"]) == {name[9:-4] for name in names}

    trainer.test(DetectionModule(settings), data, verbose=False)
    tested = (tmp_path / "pictures" / "test_detections").glob("*.png")
    assert [path.name for path in tested] == ["0.png"]
