"""Files of weights: state dicts of other projects, and the checkpoints of this one.

A checkpoint is what the Lightning module of this package writes: its ``state_dict`` holds the whole
detector, its record under the key ``rcnn`` says how the detector is built.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RECORD = "rcnn"
"""The key that a checkpoint of this package has, and no other file."""

OWN_NAMES = {"detector.body.": "body.", "detector.regions.tail.": "tail."}
"""How the keys of a checkpoint begin, and how the same tensors begin in a backbone."""


class WeightsError(RuntimeError):
    """Weights that were asked for cannot be had or do not fit."""


@dataclass(frozen=True, eq=False)
class WeightFile:
    """The tensors of a file.

    Attributes:
        tensors: by the keys of the file; of a checkpoint only those of its backbone, as ``body.*``
            and ``tail.*``.
        backbone: the name of a checkpoint's backbone; None for a bare state dict.
    """

    tensors: Mapping[str, Tensor]
    backbone: str | None = None


def read_weights(path: Path) -> WeightFile:
    """Read a state dict, taken out of the wrappers that trainers put around it, or a checkpoint.

    Raises:
        WeightsError: the file is not there, is broken, or holds no state dict.
    """
    content = _load(path)
    record = content.get(RECORD) if isinstance(content, Mapping) else None
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"backbone.weights: {path} holds no state dict.")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"backbone.weights: {path} holds no state dict: {key!r} is a "
                f"{type(value).__name__}, not a tensor."
            )
    if not isinstance(record, Mapping):
        return WeightFile(dict(content))
    tensors = {
        ours + key.removeprefix(theirs): tensor
        for theirs, ours in OWN_NAMES.items()
        for key, tensor in content.items()
        if key.startswith(theirs)
    }
    return WeightFile(tensors, record["settings"]["backbone"]["name"])


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(
            f"backbone.weights: there is no file {path}. Allowed are 'auto', 'imagenet', null or "
            "the path of a state dict or of a checkpoint."
        ) from error
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"backbone.weights: {path} cannot be read: it is broken (delete it), or it holds more "
            f"than tensors (save model.state_dict() alone). The reader says: {error}"
        ) from error
