"""Reading checkpoints without trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CHECKPOINT_KEY = "rcnn"
"""Where a checkpoint holds what rebuilds the detector."""

CHECKPOINT_FORMAT = 2


class CheckpointError(RuntimeError):
    """A file that is no checkpoint of this package."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises:
        CheckpointError: the file is missing, damaged, or none of this package's.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__}: {error})."
        ) from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise CheckpointError(
            f"{path}: is not a checkpoint of rcnn. A torchvision detector is read by "
            "rcnn.interop.load_torchvision."
        )
    found = checkpoint[CHECKPOINT_KEY]["format"]
    if found != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path}: has format {found}; this version of rcnn reads format {CHECKPOINT_FORMAT}."
        )
    return checkpoint
