"""The data of a run as a LightningDataModule."""

from __future__ import annotations

import multiprocessing
import os
import threading
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.utils.data import DataLoader

from rcnn.data import (
    AspectGroupedBatchSampler,
    AugmentSettings,
    DataSource,
    DetectionDataset,
    EvaluationBatchSampler,
    EvaluationTransform,
    Sample,
    Split,
    TrainingTransform,
    TransformedDataset,
    collate,
)
from rcnn.data.proposals import ProposalFiles
from rcnn.data.splits import SPLITS
from rcnn.model.transform import ImageSettings
from rcnn.settings import SettingsError, settings
from rcnn.training.progress import batches_done


@settings
class LoaderSettings:
    """How minibatches are made.

    Attributes:
        batch_size: images of a training minibatch, per device (2 in Fast R-CNN, section 2.3).
        eval_batch_size: images of a minibatch of validation, test and prediction, per device.
        workers: processes that decode and resize, per device; 0 does it in the main process.
        group_by_aspect: whether images wider than high and images higher than wide fill separate
            minibatches, which saves padding.
        seed: seed of the order and of the augmentation.
    """

    batch_size: PositiveInt = 2
    eval_batch_size: PositiveInt = 2
    workers: NonNegativeInt = 2
    group_by_aspect: bool = True
    seed: NonNegativeInt = 0


class DetectionDataModule(pl.LightningDataModule):
    """Minibatches of the splits of a data source, resized for the detector.

    With ``overfit_batches`` of the trainer, every epoch has the first minibatches of the first
    one, with the same augmentation.

    Args:
        source: source of the training, validation and test split.
        loader: how minibatches are made.
        images: sizes and padding; by default those of the module that the trainer runs.
        proposals: the stored proposals of each split, for a detector that makes none itself.
        augment: random changes of the training images.
    """

    def __init__(
        self,
        source: DataSource,
        loader: LoaderSettings | None = None,
        images: ImageSettings | None = None,
        proposals: ProposalFiles | None = None,
        augment: AugmentSettings | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.loader = loader or LoaderSettings()
        self.images = images
        self.proposals = proposals
        self.augment = augment or AugmentSettings()
        self._datasets: dict[Split, DetectionDataset] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes 1..K."""
        return self.dataset("train").class_names

    @property
    def batch_size(self) -> int:
        """Images of a training minibatch, per device."""
        return self.loader.batch_size

    def prepare_data(self) -> None:
        """Download what is missing; Lightning calls this in one process."""
        self.source.prepare()

    def setup(self, stage: str) -> None:
        """Open the splits that ``stage`` needs; for a training also that of the test after it.

        Raises:
            SettingsError: the data has other classes than the module that the trainer runs.
        """
        stages: dict[str, tuple[Split, ...]] = {"fit": SPLITS, "validate": ("val",)}
        splits = [split for split in stages.get(stage, ("test",)) if self.source.has(split)]
        expected = getattr(self._module(), "class_names", None)
        for split in splits:
            found = self.dataset(split).class_names
            if expected is not None and found != expected:
                raise SettingsError(
                    f"The {split} split has the classes {', '.join(found)}, but the detector "
                    f"knows {', '.join(expected)}. Use a detector of these classes, or "
                    "module.for_classes(...) to train one that starts from its weights."
                )

    def dataset(self, split: Split) -> DetectionDataset:
        """Return ``train``, ``val`` or ``test``, opened once."""
        if split not in self._datasets:
            dataset = self.source.dataset(split)
            if self.proposals is not None:
                dataset = self.proposals.with_proposals(dataset, split)
            self._datasets[split] = dataset
        return self._datasets[split]

    def problems(self) -> dict[str, list[dict[str, Any]]]:
        """Return what was repaired, left out or noted in each split that was opened."""
        found = {split: one.problems.summary() for split, one in self._datasets.items()}
        return {split: rows for split, rows in found.items() if rows}

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return shuffled, augmented minibatches, of which each process has its own."""
        images, loader, trainer = self._image_settings(), self.loader, self.trainer
        dataset = self.dataset("train")
        rank, world_size = self._process()
        sampler = AspectGroupedBatchSampler(
            dataset.aspect_ratios,
            loader.batch_size,
            seed=loader.seed,
            rank=rank,
            world_size=world_size,
            group=loader.group_by_aspect,
            batches_done=partial(batches_done, trainer) if trainer else None,
            # Set by the trainer, but declared nowhere.
            repeated=getattr(trainer, "overfit_batches", 0),
        )
        sampler.augmented_batches = self._augmented_batches(len(sampler))
        augmented, plain = (
            TrainingTransform(
                augment, images.shorter_side, images.longer_side, images.antialias, dataset
            )
            for augment in (self.augment, self.augment.plain())
        )
        skip = dataset.problems.on_error == "skip"
        transformed = TransformedDataset(dataset, augmented, plain, substitute=skip)
        return self._loader(transformed, sampler, images)

    def _augmented_batches(self, epoch: int) -> int | None:
        """Return how many minibatches of a training come before its last, plain epochs.

        Args:
            epoch: number of minibatches of an epoch of this process.
        """
        if self.augment.off_for_last == 0 or self.trainer is None:
            return None
        # Set by the trainer, but declared nowhere.
        limit: int | float = getattr(self.trainer, "limit_train_batches", 1.0)
        epoch = min(epoch, limit) if isinstance(limit, int) else int(epoch * limit)
        ends = []
        if self.trainer.max_epochs not in (None, -1):
            ends.append(self.trainer.max_epochs * epoch)
        if self.trainer.max_steps != -1:
            ends.append(self.trainer.max_steps * self.trainer.accumulate_grad_batches)
        if not ends:
            raise SettingsError(
                f"augment.off_for_last={self.augment.off_for_last} is not possible without "
                "trainer.max_epochs or trainer.max_steps: the last epochs are not known."
            )
        return min(ends) - self.augment.off_for_last * epoch

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Return the validation split, every image once over all processes; [] without one."""
        return self._evaluation_loader("val") if self.source.has("val") else []

    def test_dataloader(self) -> DataLoader[Sample]:
        """Return the test split, every image once over all processes."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Return the test split."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> DataLoader[Sample]:
        images = self._image_settings()
        dataset = self.dataset(split)
        rank, world_size = self._process()
        if len(dataset) < world_size:
            raise SettingsError(
                f"The {split} split has {len(dataset)} images for {world_size} processes; every "
                "process needs one. Use fewer devices or more images."
            )
        sampler = EvaluationBatchSampler(
            dataset.aspect_ratios, self.loader.eval_batch_size, rank=rank, world_size=world_size
        )
        transform = EvaluationTransform(
            images.shorter_side,
            images.longer_side,
            images.antialias,
            keep_original=images.test_scales is not None,
        )
        return self._loader(TransformedDataset(dataset, transform), sampler, images)

    def _loader(
        self, dataset: TransformedDataset, sampler: Any, images: ImageSettings
    ) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=self.loader.workers,
            collate_fn=partial(collate, multiple=images.multiple),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.loader.workers > 0,
            worker_init_fn=_end_with_reader,
        )

    def _image_settings(self) -> ImageSettings:
        if self.images is not None:
            return self.images
        settings = getattr(self._module(), "settings", None)
        return settings.images if settings is not None else ImageSettings()

    def _module(self) -> pl.LightningModule | None:
        return self.trainer.lightning_module if self.trainer else None

    def _process(self) -> tuple[int, int]:
        """Return the number of this process, and how many there are."""
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def _end_with_reader(_: int) -> None:
    """Let a worker end when the process that reads from it is killed, however it was started.

    PyTorch's workers watch their parent process, which may be the server that forked them.
    """

    def wait() -> None:
        reader = multiprocessing.parent_process()
        if reader is not None:
            reader.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
