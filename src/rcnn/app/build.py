"""From a checked config to the objects of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.callbacks import LearningRateMonitor, ProgressBar

from rcnn.app.config import Config
from rcnn.data.stored import ProposedDataset
from rcnn.model.backbones import resolve
from rcnn.model.build import needs_proposals
from rcnn.model.settings import DetectorSettings
from rcnn.model.speed import keep_freed_memory
from rcnn.settings import SettingsError
from rcnn.training import DetectionDataModule, DetectionModule
from rcnn.training.announcing import announce
from rcnn.training.statistics import measure_deltas


def build_data(config: Config) -> DetectionDataModule:
    """Build the data module; a source of data is wrapped into one."""
    built = instantiate(config.plain["data"], _convert_="all")
    if isinstance(built, pl.LightningDataModule):
        return cast(DetectionDataModule, built)
    files = config.proposals if needs_proposals(config.system) else None
    return DetectionDataModule(built, config.loader, proposals=files)


def build_module(config: Config, data: DetectionDataModule) -> DetectionModule:
    """Build the detector for the classes of the data, on the weights that are to be had.

    Raises:
        WeightsError: the weights that the config insists on cannot be had.
        SettingsError: box targets are to be measured, and the data has no stored proposals.
    """
    backbone, weights = resolve(config.detector["backbone"])
    settings = config.settings(data.class_names, backbone)
    if config.delta_statistics == "empirical":
        settings = _measured(settings, config, data)
    module = DetectionModule(
        settings,
        system=config.system,
        recipe=instantiate(config.plain["optimizer"], _convert_="all"),
        scheme="exact" if config.scheme.name == "exact" else "joint",
        seed=config.run.seed,
        plus_one=config.run.plus_one,
        weights=weights.source,
        speed=config.speed,
    )
    announce(weights.load_into(module.detector.network))
    return module


def _measured(
    settings: DetectorSettings, config: Config, data: DetectionDataModule
) -> DetectorSettings:
    """Return the settings with the normalisation of the training split's box targets."""
    dataset = data.dataset("train")
    if not isinstance(dataset, ProposedDataset):
        raise SettingsError(
            "model.delta_statistics='empirical' is not possible: the training split of "
            f"{type(data).__name__} is no rcnn.data.stored.ProposedDataset. Choose fixed."
        )
    return replace(settings, deltas=measure_deltas(dataset, settings, config.loader.flip))


def build_trainer(config: Config) -> pl.Trainer:
    """Build the trainer with its callbacks and loggers, and settle what holds for its process.

    That is the precision of matrix products, and whether freed memory is kept.
    """
    torch.set_float32_matmul_precision(config.speed.matmul)
    if config.speed.keep_memory:
        keep_freed_memory()
    callbacks = [
        instantiate(node, _convert_="all") for node in config.plain["callbacks"].values() if node
    ]
    loggers = [
        instantiate(node, _convert_="all") for node in config.plain["logger"].values() if node
    ]
    # Two callbacks insist on what may have been switched off.
    if not loggers:
        callbacks = [one for one in callbacks if not isinstance(one, LearningRateMonitor)]
    if not config.plain["trainer"].get("enable_progress_bar", True):
        callbacks = [one for one in callbacks if not isinstance(one, ProgressBar)]
    return cast(
        pl.Trainer,
        instantiate(
            config.plain["trainer"],
            callbacks=callbacks,
            logger=loggers,
            # Where callbacks.progress=null leaves none, Lightning would draw a bar of its own.
            enable_progress_bar=any(isinstance(one, ProgressBar) for one in callbacks),
            default_root_dir=config.run.run_dir,
            _convert_="all",
        ),
    )
