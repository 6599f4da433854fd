"""One run: check the config, start the processes, train, test, record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from rcnn.app.build import build_data, build_module, build_trainer
from rcnn.app.checkpoint_settings import settle_for_test
from rcnn.app.config import Config, parse
from rcnn.app.overrides import said_to_hydra
from rcnn.app.quiet import quieten
from rcnn.app.record import write_start
from rcnn.app.results import Results, print_results
from rcnn.app.steps import run_in_steps
from rcnn.files import write_json
from rcnn.launch import needs_processes, run_in_processes, settle_start_method
from rcnn.model.backbones import resolve
from rcnn.training import DetectionDataModule, DetectionModule
from rcnn.training.compression import compress
from rcnn.training.timing import timer_of


def run(composed: DictConfig) -> float:
    """Run one composed config and return the validation metric that it monitors.

    The run folder gets the resolved config and the environment at the start, events, metrics and
    checkpoints on the way, and ``metrics.json`` at the end.

    Raises:
        SettingsError: the config holds an unknown key or an impossible value, or a checkpoint is to
            be tested with settings that only a training can give it.
        CheckpointError: there is no checkpoint to test.
    """
    settle_start_method()
    plain = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    note: list[str] = []
    if plain.get("task") == "test" and isinstance(plain.get("ckpt_path"), str):
        plain, note = settle_for_test(plain, said_to_hydra())
    config = parse(plain)
    folder = Path(config.run.run_dir)
    trainer = config.plain["trainer"]
    processes = needs_processes(
        trainer.get("devices", "auto"),
        trainer.get("accelerator", "auto"),
        trainer.get("strategy", "auto"),
        trainer.get("num_nodes", 1),
    )
    rank_zero_only(write_start)(folder, config.plain)
    note += _settle_weights(config)
    if processes > 1:
        results = run_in_processes(run_job, (config.plain,), processes)
    else:
        results = run_job(config.plain)
    results = replace(results, notes=[*results.notes, *note])
    rank_zero_only(write_json)(folder / "metrics.json", results.plain())
    rank_zero_only(print_results)(results, config.run.run_dir)
    return float("nan") if results.monitored is None else results.monitored


def _settle_weights(config: Config) -> list[str]:
    """Look for the backbone's weights once, so that all processes agree; say loudly if in vain."""
    if config.run.task != "train":
        return []
    _, weights = resolve(config.detector["backbone"])
    if weights.source != "random":
        return []
    config.plain["backbone"]["weights"] = None
    notes = [weights.message]
    if config.system == "sppnet":
        notes.append(
            "model=sppnet never learns its convolutions: they stay RANDOM. Give "
            "backbone.weights=imagenet, or the path of a file."
        )
    return notes


def run_job(plain: dict[str, Any]) -> Results:
    """Do the work of a run in this process, which may be one of several."""
    config = parse(plain)
    quieten()
    pl.seed_everything(config.run.seed, workers=True, verbose=False)
    data = build_data(config)
    data.prepare_data()
    if config.run.task == "train" and config.scheme.in_steps:
        return run_in_steps(config, data)
    trainer = build_trainer(config)
    if config.run.task == "test":
        module = _load(config)
        trainer.test(module, data, verbose=False)
        checkpoint = config.run.ckpt_path
        return Results(_metrics(trainer), module.per_class, module.weights, checkpoint)
    return _train(config, trainer, data)


def _load(config: Config) -> DetectionModule:
    """Return the checkpoint's module with the config's settings, which may detect otherwise."""
    module = DetectionModule.load_from_checkpoint(
        cast(str, config.run.ckpt_path), speed=config.speed
    )
    ranks = config.detector["backbone"].ranks
    if ranks != module.settings.backbone.ranks:
        module = compress(module, ranks)
    settings = config.settings(module.class_names, config.detector["backbone"])
    if settings == module.settings and not config.run.plus_one:
        return module
    changed = DetectionModule(
        settings,
        system=module.system,
        scheme=module.scheme,
        seed=module.seed,
        plus_one=config.run.plus_one,
        weights=module.weights,
        speed=module.speed,
    )
    changed.load_state_dict(module.state_dict())
    return changed


def _train(config: Config, trainer: pl.Trainer, data: DetectionDataModule) -> Results:
    module = build_module(config, data)
    timer = timer_of(trainer)
    trainer.fit(module, data, ckpt_path=config.run.ckpt_path)
    seconds = timer.time_elapsed()
    metrics, steps = _metrics(trainer), trainer.global_step
    checkpoint = trainer.checkpoint_callback
    best = getattr(checkpoint, "best_model_path", "") or None
    if best is None:  # the run ended before its first validation
        last = Path(config.run.run_dir, "checkpoints", "last.ckpt")
        trainer.save_checkpoint(last)
    monitored = None if config.run.monitor is None else metrics.get(config.run.monitor)
    score = getattr(checkpoint, "best_model_score", None)
    trainer.test(module, data, ckpt_path=best, verbose=False)
    metrics |= _metrics(trainer)
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


def _log_hyperparameters(config: Config, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
    """Put the settings of the run beside its final metrics, for TensorBoard's table of runs."""
    groups = ("backbone", "anchors", "thresholds", "pooling", "model", "images", "optimizer")
    chosen = {group: config.plain[group] for group in (*groups, "loader", "trainer", "seed")}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            finals = {f"final/{tag}": value for tag, value in metrics.items()}
            logger.log_hyperparams(chosen, finals)


def _metrics(trainer: pl.Trainer) -> dict[str, float]:
    return {tag: float(value) for tag, value in trainer.callback_metrics.items()}
