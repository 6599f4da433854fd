"""Pictures of the same few validation images after every validation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import UInt8
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from rcnn.data import DetectionBatch, Sample, collate, resized
from rcnn.data.splits import Split
from rcnn.structures import RoISamples
from rcnn.training.datamodule import DetectionDataModule
from rcnn.training.module import DetectionModule
from rcnn.view import draw_comparison, draw_rois, image_of, stage_board, to_pil


class Pictures(pl.Callback):
    """Draws ground truth beside detections, and the RoIs that a training step would sample.

    After a validation they are of validation images, as ``detections`` and ``sampled_rois``; after
    a test of test images, as ``test_detections``. They go to TensorBoard and, the latest of each,
    into ``folder``.

    Args:
        folder: of the picture files; null writes none.
        images: how many images are drawn, always the first ones.
        minimum_score: detections below it are not drawn.
        seed: of the sampled RoIs.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        images: int = 4,
        minimum_score: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.images = images
        self.minimum_score = minimum_score
        self.seed = seed

    @torch.no_grad()
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the first images of the validation split."""
        if trainer.sanity_checking or not isinstance(pl_module, DetectionModule):
            return
        for number, sample in enumerate(self._first(trainer, "val")):
            batch = _batch(sample, pl_module)
            self._show(trainer, f"detections/{number}", self._comparison(pl_module, sample, batch))
            generator = torch.Generator(pl_module.device).manual_seed(self.seed)
            step = pl_module.detector.training_outputs(batch.images, batch.targets, generator)
            if step.rois is not None:
                panel = _sampled_rois(batch, step.rois.to("cpu"))
                self._show(trainer, f"sampled_rois/{number}", panel)

    @torch.no_grad()
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the first images of the test split."""
        if not isinstance(pl_module, DetectionModule):
            return
        for number, sample in enumerate(self._first(trainer, "test")):
            comparison = self._comparison(pl_module, sample, _batch(sample, pl_module))
            self._show(trainer, f"test_detections/{number}", comparison)

    def _first(self, trainer: pl.Trainer, split: Split) -> list[Sample]:
        """Return the images that are drawn; none in all processes but the first."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, DetectionDataModule) or not trainer.is_global_zero:
            return []
        dataset = data.dataset(split)
        return [dataset[number] for number in range(min(self.images, len(dataset)))]

    def _comparison(
        self, module: DetectionModule, sample: Sample, batch: DetectionBatch
    ) -> UInt8[Tensor, "3 h w"]:
        detections, ground_truth = (
            module.detector.detect_batch(batch.images)[0][0].to("cpu"),
            sample.ground_truth,
        )
        if detections.class_names != module.class_names:  # those of an RPN have no class
            ground_truth = dataclasses.replace(
                ground_truth, labels=torch.ones_like(ground_truth.labels)
            )
        return draw_comparison(
            sample.image, detections, ground_truth, minimum_score=self.minimum_score
        )

    def _show(self, trainer: pl.Trainer, tag: str, picture: UInt8[Tensor, "3 h w"]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(tag, picture, trainer.global_step)
        if self.folder is not None:
            path = self.folder / f"{tag}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil(picture).save(path, compress_level=1)  # a quarter of the time


def _sampled_rois(batch: DetectionBatch, rois: RoISamples) -> UInt8[Tensor, "3 h w"]:
    used = rois.labels[0] >= 0
    panel = draw_rois(image_of(batch.images, 0), rois.boxes[0, used], rois.labels[0, used])
    return stage_board([("sampled RoIs", panel)], columns=1)


def _batch(sample: Sample, module: DetectionModule) -> DetectionBatch:
    images = module.settings.images
    small = resized(sample, images.shorter_side, images.longer_side, images.antialias)
    return collate([small], images.multiple).to(module.device)
