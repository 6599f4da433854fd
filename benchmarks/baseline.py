"""Torchvision's Faster R-CNN under the same trainer, data and optimiser as ours."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from rcnn.data import DetectionBatch
from rcnn.metrics.suite import Scores
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import scale
from rcnn.structures import Detections
from rcnn.training.optim import Recipe


class TorchvisionModule(pl.LightningModule):
    """Torchvision's detector in the loop of ours: same batches, same optimiser, same metrics."""

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
        """Detect and score."""
        factors = 1 / batch.images.scales
        found = [
            Detections(scale(one["boxes"], factor), one["scores"], one["labels"], self.class_names)
            for one, factor in zip(self.detector(_images(batch)), factors, strict=True)
        ]
        self.scores.update(found, batch.ground_truths)

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        headline, self.per_class["test"] = self.scores.compute()
        self.log_dict({f"test/{name}": value for name, value in headline.items()})

    def configure_optimizers(self) -> Any:
        """Return what the recipe makes."""
        optimizer, schedule = self.recipe(self.detector, self.trainer.estimated_stepping_batches, 2)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _images(batch: DetectionBatch) -> list[Tensor]:
    """Return the images without padding, in 0..1; torchvision resizes them to their own size."""
    return [
        pixels[:, :height, :width].float() / 255
        for pixels, (height, width) in zip(
            batch.images.pixels, batch.images.sizes.tolist(), strict=True
        )
    ]
