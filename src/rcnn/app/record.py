"""The record of a run: what it measured, on which code and machine; in files, on the terminal."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.text import Text

from rcnn.app.build import Weights
from rcnn.app.config import Config
from rcnn.files import whole_file, write_json
from rcnn.view.scores import recall_line, score_table

PACKAGES = (
    *("rcnn", "torch", "torchvision", "pytorch-lightning"),
    *("hydra-core", "omegaconf", "torchmetrics", "numpy"),
)
"""Packages of which a run records the version."""


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
        data_problems: what was repaired, left out or noted in the data, by split.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, dict[str, float]]]
    weights: str
    best_checkpoint: str | None = None
    monitored: float | None = None
    steps: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    data_problems: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def metrics_of(trainer: pl.Trainer) -> dict[str, float]:
    """Return the metrics that the trainer's last loop logged, by tag."""
    return {tag: float(value) for tag, value in trainer.callback_metrics.items()}


def write_start(folder: Path, plain: Mapping[str, Any]) -> None:
    """Write the resolved config and the environment into the folder of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "config.yaml") as partial:
        partial.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(plain))), encoding="utf-8")
    write_json(folder / "environment.json", environment())


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


def notes_on(config: Config, weights: Weights | None) -> list[str]:
    """Return what makes a training another one than its words seem to say."""
    notes = []
    if weights is not None and weights[1].tensors is None:
        notes.append(weights[1].message)
        if config.system == "sppnet":
            notes.append(
                "model=sppnet never learns its convolutions: they stay RANDOM. Give "
                "backbone.weights=imagenet, or the path of a file."
            )
    kind = config.detector["pooling"].kind
    if config.system == "sppnet" and kind != "pyramid":
        notes.append(f"model=sppnet pools by {kind}. SPP-net's own is pooling=pyramid.")
    return notes


def log_hyperparameters(
    config: Config, trainer: pl.Trainer, metrics: dict[str, float] | None = None
) -> None:
    """Log the settings of the run at its start; to TensorBoard at its end, with the metrics.

    TensorBoard's table of runs shows them side by side. A CSV file has ``config.yaml`` beside it.
    """
    detector = ("backbone", "anchors", "thresholds", "pooling", "model", "images")
    training = ("optimizer", "loader", "trainer", "seed")
    chosen = {group: config.plain[group] for group in (*detector, *training)}
    for logger in trainer.loggers:
        if metrics is None and not isinstance(logger, TensorBoardLogger | CSVLogger):
            logger.log_hyperparams(chosen)
        elif metrics is not None and isinstance(logger, TensorBoardLogger):
            finals = {f"final/{tag}": value for tag, value in metrics.items()}
            logger.log_hyperparams(chosen, finals)


def print_results(results: Results, run_dir: str, console: Console | None = None) -> None:
    """Print one table, a row for all classes and one for each, then the run's folder."""
    console = console or Console()
    lines = []
    if results.metrics:
        split = "test" if any(tag.startswith("test/") for tag in results.metrics) else "val"
        console.print(score_table(results.metrics, results.per_class.get(split, {}), split))
        lines.append(Text(recall_line(results.metrics, split)))
    if results.steps:
        lines.append(Text(f"{results.steps} steps in {results.seconds:.0f} s"))
    lines += [Text(note, style="yellow") for note in results.notes]
    for line in (*lines, Text(f"Run folder: {run_dir}")):
        console.print(line, soft_wrap=True)
