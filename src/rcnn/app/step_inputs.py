"""What goes into the name under which the product of a training step is stored.

The rule: everything in the config, unless it is known to change nothing that is learned. So a key
that is new changes the names until somebody writes it down here, and a run takes a stored product
at worst too seldom, never wrongly.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

import rcnn
from rcnn.app.config import Config
from rcnn.data import DetectionDataset
from rcnn.data.stored import digest
from rcnn.model.backbones import LoadedWeights
from rcnn.model.build import needs_proposals

STAND_IN = ("images", "backbone", "anchors", "thresholds", "pooling", "model", "data", "scheme")
"""Groups for which something better stands in a name: the detector's settings without what only
detection reads, a digest of the pictures and objects, and the number of the step's updates."""

NO_INFLUENCE = (
    *("name", "run_dir", "task", "ckpt_path", "monitor", "plus_one", "sweep.*", "seed"),
    *("logger.*", "proposals.folder", "speed", "speed.*"),
    *("loader.workers", "loader.cache_gib"),
    # The length is in the number of updates, and the devices are counted as processes.
    *("trainer.max_*", "trainer.limit_*", "trainer.devices", "trainer.num_nodes"),
    *("trainer.enable_*", "trainer.log_every_n_steps", "trainer.benchmark"),
    # Steps have no validation.
    *("trainer.check_val_every_n_epoch", "trainer.val_check_interval"),
    "trainer.num_sanity_val_steps",
)
"""Patterns of dotted keys that change nothing that is learned. The seed is a stage's own input."""

WATCHERS = (
    *("ModelCheckpoint", "Pictures", "Progress", "Throughput", "LearningRateMonitor"),
    "FiniteLoss",
)
"""Classes of callbacks that look on; they may stop a step, which then is not stored."""


def step_inputs(
    config: Config, train: DetectionDataset, weights: LoadedWeights, processes: int
) -> dict[str, Any]:
    """Return what all steps of a run have in common in their names, as plain values.

    Args:
        config: of the run.
        train: the training split.
        weights: that the first steps start from.
        processes: that learn together.
    """
    data = {"images": digest(train), "objects": _objects(train)}
    if needs_proposals(config.system) and config.proposals.folder is not None:
        file = Path(config.proposals.folder, "train.proposals")
        with file.open("rb") as stream:
            data["proposals"] = hashlib.file_digest(stream, "sha256").hexdigest()
    inputs = {
        "rcnn": rcnn.__version__,
        "config": _influential(config),
        "data": data,
        "pretrained": _hash_of(weights),
        "processes": processes,
    }
    plain: dict[str, Any] = json.loads(json.dumps(inputs))
    return plain


def _is_watcher(callback: dict[str, Any]) -> bool:
    """Return whether a callback's node names one of :data:`WATCHERS`."""
    return str(callback["_target_"]).rpartition(".")[2] in WATCHERS


def _influential(config: Config) -> dict[str, Any]:
    """Return dotted keys and their values."""
    groups = {group: node for group, node in config.plain.items() if group not in STAND_IN}
    groups["loader"] = dataclasses.asdict(config.loader)
    groups["callbacks"] = {
        key: node for key, node in groups["callbacks"].items() if node and not _is_watcher(node)
    }
    here = f"{config.run.run_dir}/"
    return {
        key: value.removeprefix(here) if isinstance(value, str) else value
        for key, value in _leaves(groups)
        if not any(fnmatchcase(key, pattern) for pattern in NO_INFLUENCE)
    }


def _leaves(node: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{where}.{key}" if where else key
        if isinstance(value, dict):
            yield from _leaves(value, name)
        else:
            yield name, value


def _objects(dataset: DetectionDataset) -> str:
    """Return a hash of all annotated objects."""
    content = hashlib.sha256()
    for index in range(len(dataset)):
        ground_truth = dataset.ground_truth(index)
        for tensor in (
            ground_truth.boxes,
            ground_truth.labels,
            ground_truth.difficult,
            ground_truth.crowd,
        ):
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
