"""The objects of a run: its data, its detector with the weights, and its trainer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import cast

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.callbacks import LearningRateMonitor, ProgressBar

from rcnn.app.config import Config
from rcnn.data.proposals import ProposedDataset
from rcnn.model.backbones import BackboneSettings, LoadedWeights, resolve
from rcnn.model.build import needs_proposals
from rcnn.model.speed import keep_freed_memory
from rcnn.settings import SettingsError
from rcnn.training import DetectionDataModule, DetectionModule
from rcnn.training.loggers import tolerant
from rcnn.training.progress import rank_zero_info
from rcnn.training.statistics import measure_deltas

Weights = tuple[BackboneSettings, LoadedWeights]
"""What ``rcnn.model.backbones.resolve`` returns."""


def build_data(config: Config) -> DetectionDataModule:
    """Return the data module; a source of data is wrapped into one."""
    built = instantiate(config.plain["data"], _convert_="all")
    if isinstance(built, pl.LightningDataModule):
        return cast(DetectionDataModule, built)
    files = config.proposals if needs_proposals(config.system) else None
    return DetectionDataModule(built, config.loader, proposals=files, augment=config.augment)


def build_module(
    config: Config, data: DetectionDataModule, weights: Weights | None = None
) -> DetectionModule:
    """Return the detector for the classes of the data.

    Args:
        config: the config.
        data: data module of the run.
        weights: the resolved backbone and its weights; by default they are resolved here.

    Raises:
        WeightsError: the weights that the config insists on cannot be found.
        SettingsError: box targets are to be measured, and the data has no stored proposals.
    """
    backbone, loaded = weights or resolve(config.detector["backbone"])
    settings = config.settings(data.class_names, backbone)
    if config.delta_statistics == "empirical":
        dataset = data.dataset("train")
        if not isinstance(dataset, ProposedDataset):
            raise SettingsError(
                "model.delta_statistics='empirical' is not possible: the training split of "
                f"{type(data).__name__} is no rcnn.data.proposals.ProposedDataset. Choose fixed."
            )
        deltas = measure_deltas(dataset, settings, config.augment.flip)
        settings = replace(settings, deltas=deltas)
    module = DetectionModule(
        settings,
        system=config.system,
        recipe=instantiate(config.plain["optimizer"], _convert_="all"),
        scheme="exact" if config.scheme.name == "exact" else "joint",
        seed=config.run.seed,
        plus_one=config.run.plus_one,
        weights=loaded.source,
        speed=config.speed,
    )
    rank_zero_info(loaded.load_into(module.detector.network))
    return module


def build_trainer(config: Config) -> pl.Trainer:
    """Return the trainer with its callbacks and loggers, and settle what holds for its process.

    That is the precision of matrix products, and whether freed memory is kept.
    """
    torch.set_float32_matmul_precision(config.speed.matmul)
    if config.speed.keep_memory:
        keep_freed_memory()
    callbacks = [
        instantiate(node, _convert_="all") for node in config.plain["callbacks"].values() if node
    ]
    made = [
        tolerant(name, partial(instantiate, node, _convert_="all"))
        for name, node in config.plain["logger"].items()
        if node
    ]
    loggers = [logger for logger in made if logger is not None]
    # Two callbacks insist on what may have been switched off.
    if not loggers:
        callbacks = [one for one in callbacks if not isinstance(one, LearningRateMonitor)]
    if not config.plain["trainer"].get("enable_progress_bar", True):
        callbacks = [one for one in callbacks if not isinstance(one, ProgressBar)]
    trainer = instantiate(
        config.plain["trainer"],
        callbacks=callbacks,
        logger=loggers,
        # Where callbacks.progress=null leaves none, Lightning would draw a bar of its own.
        enable_progress_bar=any(isinstance(one, ProgressBar) for one in callbacks),
        default_root_dir=config.run.run_dir,
        _convert_="all",
    )
    return cast(pl.Trainer, trainer)
