"""From a checked config to the objects of a run."""

from __future__ import annotations

from typing import cast

import pytorch_lightning as pl
from hydra.utils import instantiate

from rcnn.app.config import Config
from rcnn.model.backbones import resolve
from rcnn.training import DetectionDataModule, DetectionModule


def build_data(config: Config) -> DetectionDataModule:
    """Build the data module; a source of data is wrapped into one."""
    built = instantiate(config.plain["data"], _convert_="all")
    if isinstance(built, pl.LightningDataModule):
        return cast(DetectionDataModule, built)
    return DetectionDataModule(built, config.loader)


def build_module(config: Config, data: DetectionDataModule) -> DetectionModule:
    """Build the detector for the classes of the data, on the weights that are to be had.

    Raises:
        WeightsError: the weights that the config insists on cannot be had.
    """
    backbone, weights = resolve(config.detector["backbone"])
    module = DetectionModule(
        config.settings(data.class_names, backbone),
        system=config.system,
        recipe=instantiate(config.plain["optimizer"], _convert_="all"),
        scheme=config.scheme,
        seed=config.run.seed,
        plus_one=config.run.plus_one,
        weights=weights.source,
    )
    weights.load_into(module.detector.backbone)
    return module


def build_trainer(config: Config) -> pl.Trainer:
    """Build the trainer with its callbacks and loggers."""
    callbacks = [
        instantiate(node, _convert_="all") for node in config.plain["callbacks"].values() if node
    ]
    loggers = [
        instantiate(node, _convert_="all") for node in config.plain["logger"].values() if node
    ]
    return cast(
        pl.Trainer,
        instantiate(
            config.plain["trainer"],
            callbacks=callbacks,
            logger=loggers,
            default_root_dir=config.run.run_dir,
            _convert_="all",
        ),
    )
