"""The data of a run as a LightningDataModule: two-image minibatches, resized for the detector."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from rcnn.data import (
    AspectGroupedBatchSampler,
    CacheBudget,
    DetectionDataset,
    EvaluationBatchSampler,
    EvaluationTransform,
    PictureCache,
    Sample,
    TrainingTransform,
    TransformedDataset,
    collate,
)
from rcnn.data.splits import DataSource, Split
from rcnn.data.stored import ProposalFiles
from rcnn.model.transform import ImageSettings
from rcnn.settings import require
from rcnn.training.module import batches_done


@dataclass(frozen=True)
class LoaderSettings:
    """How minibatches are made.

    Attributes:
        batch_size: images of a minibatch, per device (2 in Fast R-CNN, section 2.3).
        eval_batch_size: likewise for validation, test and prediction.
        workers: processes that decode and resize, per device; 0 does it in the main process.
        flip: probability of mirroring a training image.
        shorter_sides: training draws the shorter side of each image from these; null keeps to the
            detector's own.
        group_by_aspect: put upright images with upright and lying with lying ones, which saves
            padding.
        seed: of the order and of the augmentation.
        cache_gib: memory in GiB, per device, in which decoded training and validation images are
            kept for all workers, so that each is decoded once; those for which it is too small
            are decoded each time. Only time changes, no sample does.
    """

    batch_size: int = 2
    eval_batch_size: int = 2
    workers: int = 2
    flip: float = 0.5
    shorter_sides: tuple[int, ...] | None = None
    group_by_aspect: bool = True
    seed: int = 0
    cache_gib: float = 0.0

    def __post_init__(self) -> None:
        for key in ("batch_size", "eval_batch_size"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "it is 1 or more")
        require(self.workers >= 0, "workers", self.workers, "it is 0 or more")
        require(0 <= self.cache_gib < math.inf, "cache_gib", self.cache_gib, "it is 0 or more")
        require(0 <= self.flip <= 1, "flip", self.flip, "it lies in 0..1")
        sides = self.shorter_sides
        usable = sides is None or (len(sides) > 0 and min(sides) >= 1)
        require(usable, "shorter_sides", sides, "it lists one or more sizes in pixels, or is null")


class DetectionDataModule(pl.LightningDataModule):
    """Minibatches of the splits of a data source.

    How large images have to be is the detector's business: unless given, the image settings are
    those of the module that the trainer runs.

    Args:
        source: gives the training, validation and test split.
        loader: how minibatches are made.
        images: sizes and padding; by default those of the trainer's module.
        proposals: the stored proposals of each split, for a detector that makes none itself.
    """

    def __init__(
        self,
        source: DataSource,
        loader: LoaderSettings | None = None,
        images: ImageSettings | None = None,
        proposals: ProposalFiles | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.loader = loader or LoaderSettings()
        self.images = images
        self.proposals = proposals
        self._datasets: dict[Split, DetectionDataset] = {}
        self._budget = CacheBudget(int(self.loader.cache_gib * 2**30))

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
        """Open the splits that ``stage`` needs, and check their classes against the module's."""
        stages: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        splits = [split for split in stages.get(stage, ("test",)) if self.source.has(split)]
        module = self.trainer.lightning_module if self.trainer else None
        expected = getattr(module, "class_names", None)
        for split in splits:
            found = self.dataset(split).class_names
            if expected is not None and found != expected:
                raise ValueError(
                    f"The {split} split has the classes {', '.join(found)}, but the detector "
                    f"knows {', '.join(expected)}. Use a detector of these classes, or "
                    "module.for_classes(...) to train one that starts from its weights."
                )

    def dataset(self, split: Split) -> DetectionDataset:
        """Return ``train``, ``val`` or ``test``, opened once."""
        if split not in self._datasets:
            dataset = self.source.dataset(split)
            if self.proposals is not None:
                dataset = self.proposals.attach(dataset, split)
            self._datasets[split] = dataset
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return shuffled, augmented minibatches; each process its own share."""
        images, loader = self._image_settings(), self.loader
        dataset = self.dataset("train")
        rank, world_size = self._process()
        sampler = AspectGroupedBatchSampler(
            dataset.aspect_ratios,
            batch_size=loader.batch_size,
            seed=loader.seed,
            rank=rank,
            world_size=world_size,
            group=loader.group_by_aspect,
            batches_done=partial(batches_done, self.trainer) if self.trainer else None,
        )
        sides = loader.shorter_sides or (images.shorter_side,)
        transform = TrainingTransform(
            flip_probability=loader.flip,
            shorter_sides=sides,
            longer_side=images.longer_side,
            antialias=images.antialias,
        )
        skip = dataset.problems.on_error == "skip"
        cache = self._cache("train", sides, images)
        return self._loader(TransformedDataset(dataset, transform, skip, cache), sampler, images)

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
            raise ValueError(
                f"The {split} split has {len(dataset)} images for {world_size} processes; every "
                "process needs one. Use fewer devices or more images."
            )
        sampler = EvaluationBatchSampler(
            dataset.aspect_ratios,
            self.loader.eval_batch_size,
            rank=rank,
            world_size=world_size,
        )
        several = images.test_scales is not None
        transform = EvaluationTransform(
            images.shorter_side, images.longer_side, images.antialias, keep_original=several
        )
        sides = () if several else (images.shorter_side,)
        # A test sees its images once.
        cache = self._cache(split, sides, images) if split == "val" else None
        return self._loader(TransformedDataset(dataset, transform, cache=cache), sampler, images)

    def _cache(
        self, split: Split, sides: tuple[int, ...], images: ImageSettings
    ) -> PictureCache | None:
        sizes = self.dataset(split).sizes
        return self._budget.cache(split, sizes, sides, images.longer_side, images.antialias)

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
        module = self.trainer.lightning_module if self.trainer else None
        settings = getattr(module, "settings", None)
        return settings.images if settings is not None else ImageSettings()

    def _process(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def _end_with_reader(_: int) -> None:
    """Let a worker end when the process that reads from it is killed, however it was started.

    PyTorch's workers look whether their parent is there, which may be the server that forked them.
    """

    def wait() -> None:
        reader = multiprocessing.parent_process()
        if reader is not None:
            reader.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
