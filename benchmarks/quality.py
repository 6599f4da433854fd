"""Average precision on real images after the same training: our detector and torchvision's.

Each run is ``experiment=bccd`` from random weights: its data, image sizes, epochs, optimiser and
metrics are those of both detectors. Each row goes to stderr as soon as its run has ended.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from benchmarks.pair import Row
from benchmarks.torchvision_models import c4_detector
from rcnn.app.build import build_data, build_module
from rcnn.app.config import Config, parse, register_schema
from rcnn.app.run import silence_warnings
from rcnn.data import DetectionBatch
from rcnn.metrics.suite import Scores
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import scale
from rcnn.structures import Detections
from rcnn.training import DetectionModule
from rcnn.training.optim import Recipe

CONF = Path(__file__).resolve().parents[1] / "conf"
DETECTORS = ("rcnn", "torchvision")
FIGURES = ("map", "map_50", "map_75", "voc_map", "voc07_map")


class TorchvisionModule(pl.LightningModule):
    """Torchvision's detector with our batches, optimiser and metrics.

    Args:
        detector: torchvision's detector.
        settings: settings of our detector; the data module takes the size of the images from them.
        recipe: factory of the optimiser and its schedule.
    """

    def __init__(self, detector: FasterRCNN, settings: DetectorSettings, recipe: Recipe) -> None:
        super().__init__()
        self.detector = detector
        self.settings = settings
        self.class_names = settings.class_names
        self.recipe = recipe
        self.scores = Scores(settings.class_names)
        self.per_class: dict[str, dict[str, dict[str, float]]] = {}

    def training_step(self, batch: DetectionBatch) -> Tensor:
        """Return the sum of torchvision's four losses."""
        targets = [
            {"boxes": boxes[labels > 0], "labels": labels[labels > 0]}
            for boxes, labels in zip(batch.targets.boxes, batch.targets.labels, strict=True)
        ]
        losses = self.detector(_images(batch), targets)
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total, prog_bar=True)
        return total

    def test_step(self, batch: DetectionBatch) -> None:
        """Detect, and add the detections in original pixels to the metrics."""
        found = [
            Detections(scale(one["boxes"], factor), one["scores"], one["labels"], self.class_names)
            for one, factor in zip(
                self.detector(_images(batch)), 1 / batch.images.scales, strict=True
            )
        ]
        self.scores.update(found, batch.ground_truths)

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        headline, self.per_class["test"] = self.scores.compute()
        self.log_dict({f"test/{name}": value for name, value in headline.items()})

    def configure_optimizers(self) -> Any:
        """Return what the recipe makes."""
        steps = self.trainer.estimated_stepping_batches
        optimizer, schedule = self.recipe(self.detector, steps, images_per_step=2)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--root", required=True, help="the folder of the BCCD data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=DETECTORS)
    parser.add_argument("--epochs", type=int, default=12)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Train every detector from every seed, one run after the other."""
    rows: list[Row] = []
    for seed in arguments.seeds:
        for detector in arguments.detectors:
            rows.append(train(detector, arguments.root, seed, arguments.epochs))
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def train(detector: str, root: str, seed: int, epochs: int) -> Row:
    """Train one detector from random weights and return its figures on the test split."""
    silence_warnings()
    config = compose_config(
        *("experiment=bccd", f"data.root={root}", f"seed={seed}", f"trainer.max_epochs={epochs}")
    )
    pl.seed_everything(seed, workers=True, verbose=False)
    data = build_data(config)
    ours = build_module(config, data)
    module: DetectionModule | TorchvisionModule = ours
    if detector == "torchvision":
        pl.seed_everything(seed, workers=True, verbose=False)
        theirs = c4_detector(ours.settings, config.loader.batch_size)
        module = TorchvisionModule(theirs, ours.settings, ours.recipe)
    trainer = instantiate(
        config.plain["trainer"], logger=False, enable_checkpointing=False, _convert_="all"
    )
    start = time.monotonic()
    with warnings.catch_warnings():
        # The data module has a loader for validation, but the experiment no split for it.
        warnings.filterwarnings("ignore", "You passed in a `val_dataloader`")
        trainer.fit(module, data)
    seconds = time.monotonic() - start
    trainer.test(module, data, verbose=False)
    row: Row = {"detector": detector, "seed": seed, "epochs": epochs}
    row |= {"steps": trainer.global_step, "seconds": round(seconds)}
    row |= {name: float(trainer.callback_metrics[f"test/{name}"]) for name in FIGURES}
    return row | {f"map {name}": of["map"] for name, of in module.per_class["test"].items()}


def compose_config(*overrides: str) -> Config:
    """Return the config of a run that writes no files, as ``train.py`` composes it."""
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides=[*overrides, "run_dir=unused", "name=unused"])
    return parse(cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True)))


def _images(batch: DetectionBatch) -> list[Tensor]:
    """Return the images without padding, in 0..1; torchvision resizes them to their own size."""
    return [
        pixels[:, :height, :width].float() / 255
        for pixels, (height, width) in zip(
            batch.images.pixels, batch.images.sizes.tolist(), strict=True
        )
    ]
