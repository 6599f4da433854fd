"""One run: check the config, start the processes, train, test, record."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor, ProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.text import Text

from rcnn.app.config import (
    Config,
    apply_checkpoint_settings,
    parse,
    read_overrides,
    register_schema,
)
from rcnn.app.errors import explained
from rcnn.app.processes import needs_processes, run_in_processes, settle_start_method
from rcnn.data.proposals import ProposedDataset
from rcnn.files import whole_file, write_json
from rcnn.inference.checkpoint import CHECKPOINT_KEY, CheckpointError, read_checkpoint
from rcnn.model.backbones import BackboneSettings, LoadedWeights, resolve
from rcnn.model.build import needs_proposals
from rcnn.model.speed import keep_freed_memory
from rcnn.settings import SettingsError, to_plain
from rcnn.training import DetectionDataModule, DetectionModule
from rcnn.training.progress import rank_zero_info, timer_of
from rcnn.training.statistics import measure_deltas
from rcnn.view.scores import recall_line, score_table

Weights = tuple[BackboneSettings, LoadedWeights]
"""What ``rcnn.model.backbones.resolve`` returns."""


@dataclass(frozen=True)
class Results:
    """What a run measured.

    Attributes:
        metrics: metrics by tag, such as ``test/map_50``.
        per_class: average precisions of each class, by split.
        weights: origin of the backbone's weights.
        best_checkpoint: path of the checkpoint that the validation chose; None without one.
        monitored: value of the metric that chose it.
        steps: number of optimiser steps.
        seconds: duration of the training with its validations, from the first run on if it was
            resumed; of a training in phases, of all phases and the proposals between them, also of
            those that were found in the store.
        notes: what a reader of the figures has to know.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, dict[str, float]]]
    weights: str
    best_checkpoint: str | None = None
    monitored: float | None = None
    steps: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def main(conf: Path) -> None:
    """Run what the command line says, a run or a sweep; see ``train.py``.

    Args:
        conf: the folder of the config groups.
    """
    register_schema()
    with explained(conf):
        hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(run)()


def run(composed: DictConfig) -> float:
    """Run one composed config and return the validation metric that it monitors.

    The run folder gets the resolved config and the environment at the start, events, metrics and
    checkpoints on the way, and ``metrics.json`` at the end.

    Raises:
        SettingsError: the config holds an unknown key or an impossible value, or a checkpoint is
            tested with settings that only a training can give it.
        CheckpointError: there is no checkpoint to test or to resume from.
    """
    settle_start_method()
    resolved = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    said = read_overrides(HydraConfig.get().overrides.task) if HydraConfig.initialized() else {}
    plain, notes = apply_checkpoint_settings(resolved, said)
    config = parse(plain)
    processes = needs_processes(config.plain["trainer"])
    weights = resolve(config.detector["backbone"]) if config.run.task == "train" else None
    folder = Path(config.run.run_dir)
    rank_zero_only(_write_start)(folder, _settled(config, weights))
    if processes > 1:
        results = run_in_processes(run_folder, (str(folder),), processes)
    else:
        results = run_job(config, weights)
    results = replace(results, notes=[*results.notes, *notes, *_notes(config, weights)])
    rank_zero_only(write_json)(folder / "metrics.json", asdict(results))
    rank_zero_only(print_results)(results, str(folder))
    return float("nan") if results.monitored is None else results.monitored


def run_folder(folder: str) -> Results:
    """Do the work of the run whose ``config.yaml`` is in a folder, in one of its processes."""
    plain = OmegaConf.to_container(OmegaConf.load(Path(folder, "config.yaml")))
    config = parse(cast(dict[str, Any], plain))
    weights = resolve(config.detector["backbone"]) if config.run.task == "train" else None
    return run_job(config, weights)


def run_job(config: Config, weights: Weights | None) -> Results:
    """Do the work of a run in this process, which may be one of several.

    Args:
        config: the config.
        weights: the resolved backbone and its weights, for a training.
    """
    from rcnn.app.phases import run_in_phases  # it builds its parts with the functions below

    silence_warnings()
    pl.seed_everything(config.run.seed, workers=True, verbose=False)
    data = build_data(config)
    data.prepare_data()
    if weights is not None and config.scheme.in_phases:
        return run_in_phases(config, data, weights)
    trainer = build_trainer(config)
    if weights is not None:
        return _train(config, trainer, data, weights)
    return _test(config, trainer, data)


def _train(
    config: Config, trainer: pl.Trainer, data: DetectionDataModule, weights: Weights
) -> Results:
    module = build_module(config, data, weights)
    resumed = config.run.ckpt_path
    if resumed is not None:
        _check_resumed(resumed, module)
    timer = timer_of(trainer)
    trainer.fit(module, data, ckpt_path=resumed)
    # Before the test, which loads a checkpoint and with it the checkpoint's own time.
    seconds = timer.time_elapsed()
    metrics, steps = metrics_of(trainer), trainer.global_step
    checkpoint = trainer.checkpoint_callback
    best = getattr(checkpoint, "best_model_path", "") or None
    if best is None:  # the run ended before its first validation
        trainer.save_checkpoint(Path(config.run.run_dir, "checkpoints", "last.ckpt"))
    monitored = None if config.run.monitor is None else metrics.get(config.run.monitor)
    score = getattr(checkpoint, "best_model_score", None)
    trainer.test(module, data, ckpt_path=best, verbose=False)
    metrics |= metrics_of(trainer)
    _log_hyperparameters(config, trainer, metrics)
    return Results(
        metrics=metrics,
        per_class=module.per_class,
        weights=module.weights,
        best_checkpoint=best,
        monitored=monitored if score is None else float(score),
        steps=steps,
        seconds=seconds,
    )


def _test(config: Config, trainer: pl.Trainer, data: DetectionDataModule) -> Results:
    module = load_for_test(config)
    _check_classes(str(config.run.ckpt_path), module.class_names, data)
    trainer.test(module, data, verbose=False)
    checkpoint = config.run.ckpt_path
    return Results(metrics_of(trainer), module.per_class, module.weights, checkpoint)


def load_for_test(config: Config) -> DetectionModule:
    """Return the module of the config's checkpoint with the config's settings.

    They are the checkpoint's, except for what ``apply_checkpoint_settings`` lets the command
    line change.
    """
    module = DetectionModule.load_from_checkpoint(
        cast(str, config.run.ckpt_path), speed=config.speed
    )
    backbone = config.detector["backbone"]
    if backbone.ranks != module.settings.backbone.ranks:
        module = module.compressed(backbone.ranks)
    settings = config.settings(module.class_names, backbone)
    if settings == module.settings and not config.run.plus_one:
        return module
    return module.with_settings(settings, plus_one=config.run.plus_one)


def metrics_of(trainer: pl.Trainer) -> dict[str, float]:
    """Return the metrics that the trainer's last loop logged, by tag."""
    return {tag: float(value) for tag, value in trainer.callback_metrics.items()}


# --- the objects of a run -----------------------------------------------------------------------


def build_data(config: Config) -> DetectionDataModule:
    """Return the data module; a source of data is wrapped into one."""
    built = instantiate(config.plain["data"], _convert_="all")
    if isinstance(built, pl.LightningDataModule):
        return cast(DetectionDataModule, built)
    files = config.proposals if needs_proposals(config.system) else None
    return DetectionDataModule(built, config.loader, proposals=files)


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
        deltas = measure_deltas(dataset, settings, config.loader.flip)
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
    nodes = {key: config.plain[key].values() for key in ("callbacks", "logger")}
    callbacks = [instantiate(node, _convert_="all") for node in nodes["callbacks"] if node]
    loggers = [instantiate(node, _convert_="all") for node in nodes["logger"] if node]
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


# --- what does not fit together -----------------------------------------------------------------


def _check_classes(checkpoint: str, known: Sequence[str], data: pl.LightningDataModule) -> None:
    """Refuse to test a checkpoint on other classes than its own."""
    if not isinstance(data, DetectionDataModule):
        return  # a user's own data module answers for its classes
    if not data.source.has("test"):
        raise SettingsError("task=test needs a test split, and data.test is null: name one.")
    found = data.dataset("test").class_names
    if tuple(found) != tuple(known):
        raise SettingsError(
            f"ckpt_path={checkpoint} was trained on the classes {', '.join(known)}, but the test "
            f"split has {', '.join(found)}. Give data of the checkpoint's classes."
        )


def _check_resumed(path: str, module: DetectionModule) -> None:
    """Refuse to resume from a checkpoint of another detector, before Lightning would fail to."""
    checkpoint = read_checkpoint(path)
    record = checkpoint[CHECKPOINT_KEY]
    theirs = _flat({"system": record["system"], **record["settings"]})
    ours = _flat({"system": module.system, **to_plain(module.settings)})
    old = {name: tensor.shape for name, tensor in checkpoint["state_dict"].items()}
    new = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if theirs["class_names"] != ours["class_names"] or old != new:
        differences = "; ".join(
            f"{key} is {theirs.get(key)} there and {ours[key]} here"
            for key in ours
            if theirs.get(key) != ours[key]
        )
        raise SettingsError(
            f"ckpt_path={path} cannot be resumed from, because it is of another detector: "
            f"{differences}. Resume with the settings and the data that it was trained with, or "
            f"start from its backbone with backbone.weights={path}."
        )
    if "optimizer_states" not in checkpoint:
        raise CheckpointError(
            f"{path}: holds weights but no state of a training, so no training can be resumed "
            f"from it. Start one from its backbone with backbone.weights={path}."
        )


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a tree of two levels by dotted key."""
    groups = ((key, node if isinstance(node, dict) else {"": node}) for key, node in tree.items())
    return {f"{key}.{name}".rstrip("."): v for key, node in groups for name, v in node.items()}


# --- the record of a run ------------------------------------------------------------------------

PACKAGES = (
    *("rcnn", "torch", "torchvision", "pytorch-lightning"),
    *("hydra-core", "omegaconf", "torchmetrics", "numpy"),
)


def environment() -> dict[str, Any]:
    """Return the command, the code's commit, the versions of the packages, and the machine."""
    cuda = torch.cuda
    return {
        "command": " ".join(sys.argv),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "processors": os.cpu_count(),
        "accelerators": [cuda.get_device_name(index) for index in range(cuda.device_count())],
    }


def print_results(results: Results, run_dir: str, console: Console | None = None) -> None:
    """Print one table, a row for all classes and one for each, then the run's folder."""
    console = console or Console()
    split = "test" if any(tag.startswith("test/") for tag in results.metrics) else "val"
    console.print(score_table(results.metrics, results.per_class.get(split, {}), split))
    lines = [Text(recall_line(results.metrics, split))]
    if results.steps:
        lines.append(Text(f"{results.steps} steps in {results.seconds:.0f} s"))
    lines += [Text(note, style="yellow") for note in results.notes]
    for line in (*lines, Text(f"Run folder: {run_dir}")):
        console.print(line, soft_wrap=True)


def silence_warnings() -> None:
    """Let Lightning log warnings only, and drop those that the user need not act on."""
    # Hydra has set up logging in the first process; processes that it does not know need it, too.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "Experiment logs directory .* exists and is not empty",  # the run folder holds the config
        ".*isinstance\\(treespec, LeafSpec\\).* is deprecated",  # between Lightning and torch
        ".*does not have many workers.*",  # loader.workers is the user's choice
        "The number of training batches .* is smaller than the logging interval",
        ".*DistributedSampler.*",  # ours gives each process its share, without padding
        "Total length of .* is zero",  # there is no validation split
        "Checkpoint directory .* exists and is not empty",  # a phase of a training that goes on
        ".*your dataloader is not resumable.*",  # ours goes on inside an epoch
        "Found .* module\\(s\\) in eval mode at the start of training",  # frozen batch norms
    ):
        warnings.filterwarnings("ignore", message)


def _settled(config: Config, weights: Weights | None) -> dict[str, Any]:
    """Return the plain config with the weights that were found, so that all processes agree."""
    if weights is None or weights[1].tensors is not None:
        return config.plain
    return config.plain | {"backbone": config.plain["backbone"] | {"weights": None}}


def _notes(config: Config, weights: Weights | None) -> list[str]:
    """Return what makes a training another one than its words seem to say."""
    notes = []
    random = weights is not None and weights[1].tensors is None
    if weights is not None and random:
        notes.append(weights[1].message)
    if config.system == "sppnet" and random:
        notes.append(
            "model=sppnet never learns its convolutions: they stay RANDOM. Give "
            "backbone.weights=imagenet, or the path of a file."
        )
    kind = config.detector["pooling"].kind
    if config.system == "sppnet" and kind != "pyramid":
        notes.append(f"model=sppnet pools by {kind}. SPP-net's own is pooling=pyramid.")
    return notes


def _write_start(folder: Path, plain: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "config.yaml") as partial:
        partial.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(plain))), encoding="utf-8")
    write_json(folder / "environment.json", environment())


def _log_hyperparameters(config: Config, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
    """Put the settings of the run beside its final metrics, for TensorBoard's table of runs."""
    groups = ("backbone", "anchors", "thresholds", "pooling", "model", "images", "optimizer")
    chosen = {group: config.plain[group] for group in (*groups, "loader", "trainer", "seed")}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            finals = {f"final/{tag}": value for tag, value in metrics.items()}
            logger.log_hyperparams(chosen, finals)


def _git(*arguments: str) -> str | None:
    """Return git's answer about the code that runs; None without a repository or git."""
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
