"""Checkpoints without a trainer."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rcnn.training.files import whole_file
from rcnn.training.module import DetectionModule


def save(module: DetectionModule, path: str | Path) -> None:
    """Write a checkpoint of a module without a trainer, for use and to start from.

    It has no state of an optimiser, so that no interrupted training can go on from it. The file is
    written whole or not at all.
    """
    checkpoint: dict[str, Any] = {
        "pytorch-lightning_version": version("pytorch-lightning"),
        "epoch": 0,
        "global_step": 0,
        "state_dict": module.state_dict(),
    }
    module.on_save_checkpoint(checkpoint)
    with whole_file(path) as partial:
        torch.save(checkpoint, partial)
