"""Reading checkpoints without trusting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CHECKPOINT_KEY = "rcnn"
"""Entry of a checkpoint with what rebuilds the detector: settings, system, origin of weights."""

CHECKPOINT_FORMAT = 3
"""Format of the checkpoints that this version writes and reads."""


class CheckpointError(RuntimeError):
    """A file that is no checkpoint of this package, or of another version of it."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint; nothing in the file is executed.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or of another format.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__}: {error})."
        ) from error
    record = checkpoint.get(CHECKPOINT_KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(record, dict):
        raise CheckpointError(
            f"{path}: is not a checkpoint of rcnn. A torchvision detector is read by "
            "rcnn.interop.load_torchvision."
        )
    found = record.get("format")
    if found != CHECKPOINT_FORMAT:
        remedy = "install a newer rcnn."
        if isinstance(found, int) and found < CHECKPOINT_FORMAT:
            remedy = "it reads none of rcnn 0.1. Train again, or use rcnn 0.1."
        raise CheckpointError(
            f"{path}: has format {found}; this version of rcnn reads format {CHECKPOINT_FORMAT}: "
            f"{remedy}"
        )
    return dict(checkpoint)
