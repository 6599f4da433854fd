"""What a run can find out before it trains: ``task=find_lr`` and ``loader.batch_size=auto``."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.data import DataLoader

from rcnn.app.build import Weights, build_data, build_module, build_trainer
from rcnn.app.config import Config, parse
from rcnn.app.processes import needs_processes
from rcnn.app.record import Results
from rcnn.data import DetectionBatch
from rcnn.data.splits import TrainingSource
from rcnn.settings import SettingsError
from rcnn.training import DetectionDataModule
from rcnn.training.progress import rank_zero_info
from rcnn.training.tuning import RateCurve, largest_batch_size, largest_minibatch, rate_curve
from rcnn.view import plot_curves, to_pil

STEPS = 100
"""Steps of a search for the learning rate, unless ``trainer.max_steps`` says otherwise."""


def find_lr(config: Config, data: DetectionDataModule, weights: Weights) -> Results:
    """Measure the loss over the learning rate, write its curve, and suggest a rate.

    Raises:
        SettingsError: the optimiser has no ``lr``, or none of its rates lets the loss fall.
    """
    node = config.plain["optimizer"]
    key = "lr" if "lr" in node else "optimizer.lr"
    lr = node.get("lr") or node.get("optimizer", {}).get("lr")
    if lr is None:
        raise SettingsError("task=find_lr needs optimizer.lr, the middle of the range to search.")
    asked = config.plain["trainer"]["max_steps"]
    steps = STEPS if asked == -1 else asked
    own = DetectionDataModule(
        TrainingSource(data.source),
        config.loader,
        proposals=data.proposals,
        augment=config.augment,
    )
    module, trainer = build_module(config, data, weights), _bare_trainer(config, max_steps=steps)
    curve = rate_curve(trainer, module, own, lr, steps)
    folder = Path(config.run.run_dir)
    rank_zero_only(_write)(curve, folder)
    found = curve.suggestion
    if found is None:
        raise SettingsError(f"The loss falls at no learning rate: see {folder / 'lr_find.csv'}.")
    word = f"optimizer.{key}={found:.2g}"
    if node.get("scale_lr_to_batch"):
        word += " optimizer.scale_lr_to_batch=false"
    note = f"The loss falls fastest at a learning rate of {found:.2g}: {word}"
    return Results({}, {}, module.weights, notes=[note])


def _write(curve: RateCurve, folder: Path) -> None:
    points = {"learning_rate": curve.rates, "loss": curve.losses}
    pd.DataFrame(points).to_csv(folder / "lr_find.csv", index=False)
    losses, lines = curve.losses, {}
    if curve.suggestion is not None:
        here = losses[curve.rates.index(curve.suggestion)]
        lines[f"steepest fall: {curve.suggestion:.2g}"] = ([curve.suggestion], [here])
        # The last losses are so high that the fall would not be seen.
        losses = [loss if loss < 2 * here else math.nan for loss in losses]
    lines["running mean of the loss"] = (curve.rates, losses)
    picture = plot_curves(lines, "Loss over the learning rate", "learning rate", "loss", log_x=True)
    to_pil(picture).save(folder / "lr_find.png")


def with_batch_size(plain: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a config in which ``loader.batch_size`` is a number, and a note on what was chosen.

    ``auto`` is the largest minibatch that one device can train on, measured before the processes of
    the run are started. The learning rate means what it does for a number that the user gives.

    Raises:
        SettingsError: this process is one of several, or the data is no source of splits.
    """
    if plain["loader"].get("batch_size") != "auto":
        return plain, []
    plain = plain | {"loader": plain["loader"] | {"batch_size": 1}}
    config = parse(plain)
    if config.run.task == "test":
        return plain, []
    data = build_data(config)
    launched = any(int(os.environ.get(key, "1")) > 1 for key in ("WORLD_SIZE", "SLURM_NTASKS"))
    if launched or not isinstance(data, DetectionDataModule):
        reason = "by torchrun or srun" if launched else f"with data={type(data).__name__}"
        raise SettingsError(f"loader.batch_size=auto is not possible {reason}: give a number.")
    data.prepare_data()
    module, devices = build_module(config, data), needs_processes(config.plain["trainer"])
    one = {"devices": 1, "num_nodes": 1, "strategy": "auto", "accumulate_grad_batches": 1}

    def step(size: int) -> None:
        minibatch = largest_minibatch(data, module.settings.images, size)
        # The second step has the state of the optimiser, too.
        loader: DataLoader[DetectionBatch] = DataLoader([minibatch] * 2, batch_size=None)  # type: ignore[arg-type]
        # Without a loader for the validation, of which there is none, Lightning warns.
        _bare_trainer(config, max_steps=2, **one).fit(module, loader, loader)

    device = _bare_trainer(config, max_steps=2, **one).strategy.root_device
    images = len(data.dataset("train")) // devices
    size = largest_batch_size(step, images, device)
    scaling = f"by {size * devices}/{plain['optimizer'].get('base_batch')}"
    note = (
        f"loader.batch_size={size}: the largest minibatch for the memory of {device}, which "
        f"makes an epoch of {math.ceil(images / size)} steps. "
    )
    if plain["optimizer"].get("scale_lr_to_batch"):
        note += f"The learning rate is multiplied {scaling}."
    elif "base_batch" in plain["optimizer"]:
        note += (
            f"The learning rate stays; optimizer.scale_lr_to_batch=true multiplies it {scaling}."
        )
    rank_zero_info(note)
    return plain | {"loader": plain["loader"] | {"batch_size": size}}, [note]


def _bare_trainer(config: Config, **arguments: Any) -> pl.Trainer:
    """Return a trainer of the run's kind that only trains, for a number of steps."""
    own = {"max_epochs": -1, "max_time": None, "limit_val_batches": 0, **arguments}
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False}
    plain = config.plain | {"callbacks": {}, "logger": {}}
    plain["trainer"] = plain["trainer"] | own | quiet
    return build_trainer(replace(config, plain=plain))
