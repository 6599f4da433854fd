"""A run in phases: from its config to the runner, the data and the trainer of each phase.

A phase's product is stored under a fingerprint of what it was made from, see
``rcnn.training.phases``. The rule for the config: every key counts unless it is known to change
nothing that is learned. A key that is new changes the fingerprints until somebody lists it below,
and a run takes a stored product at worst too seldom, never wrongly.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
from hydra.utils import instantiate

import rcnn
from rcnn.app.build import Weights, build_data, build_trainer
from rcnn.app.config import Config
from rcnn.app.keys import leaves
from rcnn.app.record import Results, metrics_of
from rcnn.data import DetectionDataset
from rcnn.data.proposals import SUFFIX, ProposalFiles, fingerprint
from rcnn.data.splits import Split, TrainingSource
from rcnn.model.backbones import LoadedWeights
from rcnn.model.build import needs_proposals
from rcnn.settings import SettingsError, require
from rcnn.training import DetectionDataModule, DetectionModule
from rcnn.training.phases import BEGUN, PhaseRunner, PhaseStore, connect_processes
from rcnn.training.schemes import train_alternating, train_stage_wise, train_unshared

STAND_IN = ("images", "backbone", "anchors", "thresholds", "pooling", "model", "data", "scheme")
"""Groups that the fingerprint replaces by something better: the detector's settings without those
that concern detection only, a hash of images and objects, and the number of optimiser steps."""

NO_INFLUENCE = (
    *("name", "run_dir", "task", "ckpt_path", "monitor", "plus_one", "sweep.*", "seed"),
    *("logger.*", "proposals.folder", "speed", "speed.*", "loader.workers"),
    # The length is in the number of optimiser steps, and the devices are counted as processes.
    *("trainer.max_*", "trainer.limit_*", "trainer.devices", "trainer.num_nodes"),
    *("trainer.enable_*", "trainer.log_every_n_steps", "trainer.benchmark"),
    # Phases have no validation.
    *("trainer.check_val_every_n_epoch", "trainer.val_check_interval"),
    "trainer.num_sanity_val_steps",
)
"""Patterns of keys that change nothing that is learned. The seed is a phase's own input."""

OBSERVERS = (
    *("ModelCheckpoint", "Pictures", "Progress", "Throughput", "LearningRateMonitor"),
    *("FiniteLoss", "EarlyStopping", "Pruning"),
)
"""Classes of callbacks that change nothing; they may stop a phase, which then is not stored."""

WITHOUT_VALIDATION = ("ModelCheckpoint", "Pictures", "EarlyStopping", "Pruning")
"""Callbacks of a run that its phases do not have: their checkpoint is their own."""


def run_in_phases(config: Config, data: DetectionDataModule, weights: Weights) -> Results:
    """Train in phases and test what they end in.

    Raises:
        SettingsError: the config does not describe such a run.
    """
    _check(config, data)
    trainer = build_trainer(config)
    connect_processes(trainer)
    runner = _runner(config, data, trainer, weights)
    match config.scheme.name:
        case "alternating":
            module = train_alternating(runner)
        case "unshared":
            splits = tuple(split for split in ("val", "test") if data.source.has(split))
            module, folder = train_unshared(runner, cast(tuple[Split, ...], splits))
            files = ProposalFiles(str(folder))
            data = DetectionDataModule(data.source, config.loader, proposals=files)
        case _:
            module = train_stage_wise(runner, config.system)
    return _finish(config, trainer, data, module, runner)


def _check(config: Config, data: DetectionDataModule) -> None:
    name, statistics, resumed = config.scheme.name, config.delta_statistics, config.run.ckpt_path
    fits = name == "stage_wise" or config.system == "faster_rcnn"
    require(fits, "scheme", name, f"it trains model=faster_rcnn, not model={config.system}")
    allowed = f"scheme={name} needs fixed statistics"
    require(statistics == "fixed", "model.delta_statistics", statistics, allowed)
    allowed = f"a run of scheme={name} goes on by itself with what scheme.store holds"
    require(resumed is None, "ckpt_path", resumed, allowed)
    allowed = f"scheme={name} needs a source of splits, see rcnn.data.splits"
    require(isinstance(data, DetectionDataModule), "data", type(data).__name__, allowed)


def _runner(
    config: Config, data: DetectionDataModule, trainer: pl.Trainer, weights: Weights
) -> PhaseRunner:
    backbone, loaded = weights
    train = data.dataset("train")
    return PhaseRunner(
        settings=config.settings(train.class_names, backbone),
        recipe=instantiate(config.plain["optimizer"], _convert_="all"),
        weights=loaded,
        steps=_steps(config, data, trainer),
        seed=config.run.seed,
        inputs=phase_fingerprint(config, train, loaded, trainer.world_size),
        plus_one=config.run.plus_one,
        device=trainer.strategy.root_device,
        speed=config.speed,
        store=PhaseStore(cast(str, config.scheme.store)),
        make_data=partial(_phase_data, config),
        make_trainer=partial(_phase_trainer, config),
    )


def _steps(config: Config, data: DetectionDataModule, trainer: pl.Trainer) -> tuple[int, ...]:
    """Return the optimiser steps of each phase, which share those of a joint training."""
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
            f"scheme={config.scheme.name}: the phases share a given length."
        )
    return share_out(int(total), config.scheme.shares)


def share_out(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Return the optimiser steps of each phase, at least one, so that rounding adds or loses none.

    Args:
        total: optimiser steps that are shared.
        shares: share of each phase; where they sum to 1 the steps sum to ``total``.
    """
    ends = [round(total * part) for part in accumulate(shares)]
    return tuple(max(1, end - begin) for begin, end in pairwise([0, *ends]))


def _phase_data(config: Config, folder: Path | None) -> DetectionDataModule:
    """Return the training split alone, with the proposals in ``folder``, or the detector's."""
    data = build_data(config)
    files = config.proposals if needs_proposals(config.system) else None
    if folder is not None:
        files = ProposalFiles(str(folder), config.proposals.limit)
    source = TrainingSource(data.source)
    return DetectionDataModule(source, config.loader, proposals=files, augment=config.augment)


def _phase_trainer(config: Config, name: str, folder: Path, steps: int) -> pl.Trainer:
    """Return a trainer of the run's kind for one phase, with its logs in ``phases/<name>``."""
    run_dir = str(Path(config.run.run_dir, "phases", name))
    plain = _moved(config.plain, config.run.run_dir, run_dir)
    plain["trainer"] |= {"max_epochs": -1, "max_steps": steps, "num_sanity_val_steps": 0}
    plain["callbacks"] = {
        key: node
        for key, node in plain["callbacks"].items()
        if node and _class_name(node) not in WITHOUT_VALIDATION
    }
    plain["callbacks"]["checkpoint"] = {
        "_target_": "pytorch_lightning.callbacks.ModelCheckpoint",
        "dirpath": str(folder),
        "filename": Path(BEGUN).stem,
        "enable_version_counter": False,
    }
    run = dataclasses.replace(config.run, run_dir=run_dir)
    return build_trainer(dataclasses.replace(config, plain=plain, run=run))


def _moved(value: Any, old: str, new: str) -> Any:
    """Return a config in which every path under the run's folder is under another one."""
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
    runner: PhaseRunner,
) -> Results:
    """Write one ordinary checkpoint, then measure it."""
    checkpoint = Path(config.run.run_dir, "checkpoints", "last.ckpt")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(checkpoint, weights_only=True)
    metrics: dict[str, float] = {}
    if data.source.has("val"):
        trainer.validate(module, data, verbose=False)
        metrics |= metrics_of(trainer)
    trainer.test(module, data, verbose=False)
    metrics |= metrics_of(trainer)
    monitor = config.run.monitor
    return Results(
        metrics=metrics,
        per_class=module.per_class,
        weights=module.weights,
        best_checkpoint=str(checkpoint),
        monitored=None if monitor is None else metrics.get(monitor),
        steps=sum(runner.steps),
        seconds=runner.seconds,
        notes=runner.log,
    )


def phase_fingerprint(
    config: Config, train: DetectionDataset, weights: LoadedWeights, processes: int
) -> dict[str, Any]:
    """Return what the fingerprints of all phases of a run have in common, as plain values.

    Args:
        config: the config.
        train: training split.
        weights: weights that the first phases start from.
        processes: number of processes that learn together.
    """
    data = {"images": fingerprint(train), "objects": _objects(train)}
    if needs_proposals(config.system) and config.proposals.folder is not None:
        file = Path(config.proposals.folder, f"train{SUFFIX}")
        with file.open("rb") as stream:
            data["proposals"] = hashlib.file_digest(stream, "sha256").hexdigest()
    inputs = {
        "rcnn": rcnn.__version__,
        "config": _influential(config),
        "data": data,
        "pretrained": _hash_of(weights),
        "processes": processes,
    }
    return dict(json.loads(json.dumps(inputs)))


def _influential(config: Config) -> dict[str, Any]:
    """Return the keys and values that count."""
    groups = {group: node for group, node in config.plain.items() if group not in STAND_IN}
    groups["callbacks"] = {
        key: node
        for key, node in groups["callbacks"].items()
        if node and _class_name(node) not in OBSERVERS
    }
    here = f"{config.run.run_dir}/"
    return {
        key: value.removeprefix(here) if isinstance(value, str) else value
        for key, value in leaves(groups).items()
        if not any(fnmatchcase(key, pattern) for pattern in NO_INFLUENCE)
    }


def _class_name(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _objects(dataset: DetectionDataset) -> str:
    """Return a hash of all annotated objects."""
    content = hashlib.sha256()
    for index in range(len(dataset)):
        truth = dataset.ground_truth(index)
        for tensor in (truth.boxes, truth.labels, truth.difficult, truth.crowd):
            content.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return content.hexdigest()


def _hash_of(weights: LoadedWeights) -> str | None:
    """Return a hash of pretrained weights, None for random ones."""
    if weights.tensors is None:
        return None
    content = hashlib.sha256()
    for name in sorted(weights.tensors):
        content.update(name.encode())
        content.update(weights.tensors[name].contiguous().numpy().tobytes())
    return content.hexdigest()
