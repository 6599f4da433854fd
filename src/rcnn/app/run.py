"""One run: check the config, start the processes, train, test, record."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO, cast

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from rcnn.app.build import Weights, build_data, build_module, build_trainer
from rcnn.app.config import (
    Config,
    apply_checkpoint_settings,
    parse,
    read_overrides,
    register_schema,
)
from rcnn.app.errors import explained
from rcnn.app.keys import leaves
from rcnn.app.phases import run_in_phases
from rcnn.app.processes import needs_processes, run_in_processes, settle_start_method
from rcnn.app.record import (
    Results,
    log_hyperparameters,
    metrics_of,
    notes_on,
    print_results,
    write_start,
)
from rcnn.app.tuning import find_lr, with_batch_size
from rcnn.data import DataWarning
from rcnn.files import write_json
from rcnn.inference.checkpoint import CHECKPOINT_KEY, CheckpointError, read_checkpoint
from rcnn.model.backbones import resolve
from rcnn.settings import SettingsError, to_plain
from rcnn.training import DetectionDataModule, DetectionModule
from rcnn.training.loggers import finish
from rcnn.training.progress import rank_zero_info, timer_of


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
    silence_warnings()
    plain, chosen = with_batch_size(plain)
    config = parse(plain)
    weights = _resolve(config)
    folder = Path(config.run.run_dir)
    rank_zero_only(write_start)(folder, _settled(config, weights))
    processes = needs_processes(config.plain["trainer"])
    if processes > 1:
        results = run_in_processes(run_folder, (str(folder),), processes)
    else:
        results = run_job(config, weights)
    results = replace(results, notes=[*results.notes, *notes, *chosen, *notes_on(config, weights)])
    rank_zero_only(write_json)(folder / "metrics.json", asdict(results))
    rank_zero_only(print_results)(results, str(folder))
    return float("nan") if results.monitored is None else results.monitored


def run_folder(folder: str) -> Results:
    """Do the work of the run whose ``config.yaml`` is in a folder, in one of its processes."""
    plain = OmegaConf.to_container(OmegaConf.load(Path(folder, "config.yaml")))
    config = parse(cast(dict[str, Any], plain))
    return run_job(config, _resolve(config))


def run_job(config: Config, weights: Weights | None) -> Results:
    """Do the work of a run in this process, which may be one of several.

    Args:
        config: the config.
        weights: the resolved backbone and its weights, for a training.
    """
    silence_warnings()
    pl.seed_everything(config.run.seed, workers=True, verbose=False)
    data = build_data(config)
    data.prepare_data()
    if splits := getattr(getattr(data, "source", None), "random_splits", None):
        rank_zero_only(write_json)(Path(config.run.run_dir, "splits.json"), splits)
    results = _work(config, data, weights)
    problems = data.problems() if isinstance(data, DetectionDataModule) else {}
    return replace(results, data_problems=problems)


def _work(config: Config, data: DetectionDataModule, weights: Weights | None) -> Results:
    """Train and test, only test, or look for a learning rate."""
    if weights is not None and config.run.task == "find_lr":
        return find_lr(config, data, weights)
    if weights is not None and config.scheme.in_phases:
        return run_in_phases(config, data, weights)
    trainer = build_trainer(config)
    try:
        if weights is not None:
            return _train(config, trainer, data, weights)
        return _test(config, trainer, data)
    finally:
        finish(trainer.loggers)


def _train(
    config: Config, trainer: pl.Trainer, data: DetectionDataModule, weights: Weights
) -> Results:
    module = build_module(config, data, weights)
    resumed = config.run.ckpt_path
    if resumed is not None:
        _check_resumed(resumed, module)
    timer = timer_of(trainer)
    log_hyperparameters(config, trainer)
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
    if not isinstance(data, DetectionDataModule) or data.source.has("test"):
        trainer.test(module, data, ckpt_path=best, verbose=False)
        metrics |= metrics_of(trainer)
    log_hyperparameters(config, trainer, metrics)
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
    checkpoint = cast(str, config.run.ckpt_path)
    module = load_for_test(config)
    _check_classes(checkpoint, module.class_names, data)
    trainer.test(module, data, verbose=False)
    return Results(metrics_of(trainer), module.per_class, module.weights, checkpoint)


def load_for_test(config: Config) -> DetectionModule:
    """Return the module of the config's checkpoint with the config's settings.

    They are the checkpoint's, except for what ``apply_checkpoint_settings`` lets the command
    line change.
    """
    checkpoint = cast(str, config.run.ckpt_path)
    module = DetectionModule.load_from_checkpoint(checkpoint, speed=config.speed)
    backbone = config.detector["backbone"]
    if backbone.ranks != module.settings.backbone.ranks:
        module = module.compressed(backbone.ranks)
    settings = config.settings(module.class_names, backbone)
    if settings == module.settings and not config.run.plus_one:
        return module
    return module.with_settings(settings, plus_one=config.run.plus_one)


# --- weights and warnings -----------------------------------------------------------------------


def _resolve(config: Config) -> Weights | None:
    """Return the backbone and its weights for a training; a checkpoint has its own."""
    return resolve(config.detector["backbone"]) if config.run.task != "test" else None


def _settled(config: Config, weights: Weights | None) -> dict[str, Any]:
    """Return the plain config with the weights that were found, so that all processes agree."""
    if weights is None or weights[1].tensors is not None:
        return config.plain
    return config.plain | {"backbone": config.plain["backbone"] | {"weights": None}}


def silence_warnings() -> None:
    """Let Lightning log warnings only, and drop those that the user need not act on."""
    # Hydra has set up logging in the first process; processes that it does not know need it, too.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.showwarning = _show_warning
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


_show_otherwise = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print what was found in the data without the line of code that found it."""
    if issubclass(category, DataWarning):
        rank_zero_info(str(message))
    else:
        _show_otherwise(message, category, filename, lineno, file, line)


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
    theirs = leaves({"system": record["system"], **record["settings"]})
    ours = leaves({"system": module.system, **to_plain(module.settings)})
    try:  # the layers of an older checkpoint may have other names, which loading knows
        module.load_state_dict(checkpoint["state_dict"])
        fits = theirs["class_names"] == ours["class_names"]
    except RuntimeError:
        fits = False
    if not fits:
        differences = "; ".join(
            f"{key} is {theirs.get(key)} there and {value} here"
            for key, value in ours.items()
            if theirs.get(key) != value
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
