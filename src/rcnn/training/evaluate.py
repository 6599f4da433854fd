"""Testing a detector on a data set, as a run does at its end."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytorch_lightning as pl

from rcnn.data import DataSource, DetectionDataset
from rcnn.data.splits import Split
from rcnn.training.datamodule import DetectionDataModule, LoaderSettings
from rcnn.training.module import DetectionModule
from rcnn.training.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """What a test measured.

    Attributes:
        metrics: by tag, such as ``test/map_50``.
        per_class: average precisions of each class.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


@dataclass(frozen=True)
class _OneSplit(DataSource):
    """A data source that has one data set, for testing."""

    test: DetectionDataset

    def dataset(self, split: Split) -> DetectionDataset:  # noqa: ARG002
        return self.test


def evaluate(
    module: DetectionModule,
    dataset: DetectionDataset,
    *,
    batch_size: int = 2,
    workers: int = 2,
    progress: bool = False,
) -> Evaluation:
    """Test a module on its device by Lightning.

    Args:
        module: any detector.
        dataset: images of the classes that the detector knows, with proposals if it makes none.
        batch_size: number of images that go through the network at once.
        workers: number of processes that decode and resize.
        progress: whether a bar is shown.

    Raises:
        ValueError: the data set has other classes, or lacks proposals.
    """
    device = module.device
    loader = LoaderSettings(eval_batch_size=batch_size, workers=workers)
    with _quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=1 if device.index is None else [device.index],
            callbacks=[Progress()] if progress else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.test(module, DetectionDataModule(_OneSplit(dataset), loader), verbose=False)
    module.to(device)  # Lightning leaves it on the CPU
    metrics = {tag: float(value) for tag, value in trainer.callback_metrics.items()}
    return Evaluation(metrics, module.per_class["test"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Lightning speak up only for warnings, and not for those that are no news."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (
                ".*does not have many workers.*",
                ".*isinstance\\(treespec, LeafSpec\\).* is deprecated",
            ):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        log.setLevel(level)
