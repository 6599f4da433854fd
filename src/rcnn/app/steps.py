"""A run in steps: from its config to the plan, the data and the trainers of each step."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from hydra.utils import instantiate

from rcnn.app.build import build_data, build_trainer
from rcnn.app.config import Config
from rcnn.app.results import Results
from rcnn.app.step_inputs import step_inputs
from rcnn.data.splits import Split, TrainingSource
from rcnn.data.stored import ProposalFiles
from rcnn.model.backbones import resolve
from rcnn.model.build import needs_proposals
from rcnn.settings import SettingsError
from rcnn.training import DetectionDataModule, DetectionModule
from rcnn.training.schemes import AlternatingTraining, train_stage_wise
from rcnn.training.stages import BEGUN, Plan, StageRunner, StageStore

WITHOUT_VALIDATION = ("ModelCheckpoint", "Pictures")
"""Callbacks of a run that its steps do not have: their checkpoint is their own."""


def run_in_steps(config: Config, data: DetectionDataModule) -> Results:
    """Train in steps and test what they end in.

    Raises:
        SettingsError: the config does not describe such a run.
    """
    _check(config, data)
    trainer = build_trainer(config)
    runner = StageRunner(
        _plan(config, data, trainer),
        StageStore(cast(str, config.scheme.store)),
        lambda folder: _step_data(config, folder),
        lambda name, folder, steps: _step_trainer(config, name, folder, steps),
    )
    match config.scheme.name:
        case "alternating":
            module = AlternatingTraining(runner).run()
        case "unshared":
            splits = tuple(split for split in ("val", "test") if data.source.has(split))
            module, folder = AlternatingTraining(runner).run_unshared(
                cast(tuple[Split, ...], splits)
            )
            files = ProposalFiles(str(folder))
            data = DetectionDataModule(data.source, config.loader, proposals=files)
        case _:
            module = train_stage_wise(runner, config.system)
    return _finish(config, trainer, data, module, runner)


def _check(config: Config, data: DetectionDataModule) -> None:
    name = config.scheme.name
    if name in ("alternating", "unshared") and config.system != "faster_rcnn":
        raise SettingsError(
            f"scheme={name} is not possible: it trains model=faster_rcnn, not "
            f"model={config.system}."
        )
    if config.delta_statistics != "fixed":
        raise SettingsError(
            f"model.delta_statistics={config.delta_statistics} is not possible with "
            f"scheme={name}: choose fixed."
        )
    if config.run.ckpt_path is not None:
        raise SettingsError(
            f"ckpt_path={config.run.ckpt_path!r} is not possible with scheme={name}: "
            "a run in steps goes on by itself with what scheme.store holds."
        )
    if not isinstance(data, DetectionDataModule):
        raise SettingsError(
            f"data={type(data).__name__} is not possible with scheme={name}: steps "
            "need a source of splits, see rcnn.data.splits."
        )


def _plan(config: Config, data: DetectionDataModule, trainer: pl.Trainer) -> Plan:
    backbone, weights = resolve(config.detector["backbone"])
    train = data.dataset("train")
    return Plan(
        settings=config.settings(train.class_names, backbone),
        recipe=instantiate(config.plain["optimizer"], _convert_="all"),
        weights=weights,
        steps=_steps(config, data, trainer),
        seed=config.run.seed,
        inputs=step_inputs(config, train, weights, trainer.world_size),
        plus_one=config.run.plus_one,
        device=trainer.strategy.root_device,
        leads=trainer.global_rank == 0,
        speed=config.speed,
    )


def _steps(config: Config, data: DetectionDataModule, trainer: pl.Trainer) -> tuple[int, ...]:
    """Share out the optimiser steps that a joint training would take."""
    images = len(data.dataset("train"))
    batches = math.ceil(images / (data.batch_size * trainer.world_size))
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    an_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    total = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs * an_epoch
    total = min(total, math.inf if trainer.max_steps == -1 else trainer.max_steps)
    if total == math.inf:
        raise SettingsError(
            "trainer.max_epochs=-1 and trainer.max_steps=-1 are not possible with "
            f"scheme={config.scheme.name}: the steps share a given length."
        )
    return share_out(int(total), config.scheme.shares)


def share_out(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Return the optimiser steps of each step, at least one, so that rounding adds or loses none.

    Args:
        total: optimiser steps that are shared.
        shares: of each step; where they sum to 1 the steps sum to ``total``.
    """
    ends = [round(total * part) for part in accumulate(shares)]
    return tuple(max(1, end - begin) for begin, end in pairwise([0, *ends]))


def _step_data(config: Config, folder: Path | None) -> DetectionDataModule:
    """Return the training split alone, with the proposals in ``folder``, or the detector's."""
    data = build_data(config)
    files = config.proposals if needs_proposals(config.system) else None
    if folder is not None:
        files = ProposalFiles(str(folder), config.proposals.limit)
    return DetectionDataModule(TrainingSource(data.source), config.loader, proposals=files)


def _step_trainer(config: Config, name: str, folder: Path, steps: int) -> pl.Trainer:
    """Return a trainer of the run's kind for one step, with its logs in ``stages/<name>``."""
    run_dir = str(Path(config.run.run_dir, "stages", name))
    plain = _moved(copy.deepcopy(config.plain), config.run.run_dir, run_dir)
    plain["trainer"] |= {"max_epochs": -1, "max_steps": steps, "num_sanity_val_steps": 0}
    plain["callbacks"] = _trained_with(plain["callbacks"])
    plain["callbacks"]["checkpoint"] = {
        "_target_": "pytorch_lightning.callbacks.ModelCheckpoint",
        "dirpath": str(folder),
        "filename": Path(BEGUN).stem,
        "enable_version_counter": False,
    }
    run = dataclasses.replace(config.run, run_dir=run_dir)
    return build_trainer(dataclasses.replace(config, plain=plain, run=run))


def _trained_with(callbacks: dict[str, Any]) -> dict[str, Any]:
    """Return the callbacks of a step, which has a checkpoint of its own and no validation."""
    return {
        key: node
        for key, node in callbacks.items()
        if node and node["_target_"].rpartition(".")[2] not in WITHOUT_VALIDATION
    }


def _moved(value: Any, old: str, new: str) -> Any:
    """Return a config in which every path under the run's folder lies under another one."""
    if isinstance(value, dict):
        return {key: _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, old, new) for item in value]
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value.removeprefix(old)
    return value


def _finish(
    config: Config,
    trainer: pl.Trainer,
    data: DetectionDataModule,
    module: DetectionModule,
    runner: StageRunner,
) -> Results:
    """Write one ordinary checkpoint, then measure it."""
    checkpoint = Path(config.run.run_dir, "checkpoints", "last.ckpt")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(checkpoint, weights_only=True)
    metrics: dict[str, float] = {}
    if data.source.has("val"):
        trainer.validate(module, data, verbose=False)
        metrics |= {tag: float(value) for tag, value in trainer.callback_metrics.items()}
    trainer.test(module, data, verbose=False)
    metrics |= {tag: float(value) for tag, value in trainer.callback_metrics.items()}
    monitor = config.run.monitor
    return Results(
        metrics=metrics,
        per_class=module.per_class,
        weights=module.weights,
        best_checkpoint=str(checkpoint),
        monitored=None if monitor is None else metrics.get(monitor),
        steps=sum(runner.plan.steps),
        seconds=runner.seconds,
        notes=runner.log,
    )
