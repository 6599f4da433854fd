"""The settings of a checkpoint under test, and what the command line may change of them.

A checkpoint brings its settings along, and a detector is tested with those it was trained with,
whatever the rest of the config says; only what concerns detection can be overridden. That includes
a truncated SVD of fc6 and fc7, which needs no training either.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from rcnn.app.config import THRESHOLDS, threshold_keys
from rcnn.inference.checkpoint import CHECKPOINT_KEY, read_checkpoint
from rcnn.model.settings import DetectorSettings, concerns_detection
from rcnn.settings import SettingsError, from_plain, to_plain

CHOICES = {"backbone": "backbone.name", "pooling": "pooling.kind", "model": "model.system"}
"""Groups of which a choice means one key; the rest of the group is the checkpoint's."""

SETTLED = ("backbone.weights", "backbone.frozen_stages", "backbone.norm")
"""Keys that say how a training starts; a checkpoint holds what came of them."""

SYSTEM = "model.system"

RANKS = "backbone.ranks"
"""Of fc6 and fc7: a checkpoint that has them whole is tested with them truncated."""


def settle_for_test(
    asked: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the config with the settings of its checkpoint, and what it changes of them in words.

    Args:
        asked: a composed, resolved config with ``task=test`` and a ``ckpt_path``, of which nothing
            has been checked.
        overrides: what the command line says, by the key or the group.

    Raises:
        CheckpointError: the file is missing, damaged, or none of this package's.
        SettingsError: the command line changes more than concerns detection.
    """
    path = asked["ckpt_path"]
    record = read_checkpoint(path)[CHECKPOINT_KEY]
    settings = from_plain(DetectorSettings, record["settings"])
    places = _places(settings)
    plain = copy.deepcopy(dict(asked))
    _put(plain, SYSTEM, record["system"])
    for key, (part, name) in places.items():
        _put(plain, key, to_plain(getattr(getattr(settings, part), name)))

    notes, refused = [], []
    for key in _asked_for([SYSTEM, *places], overrides):
        own, wanted = _get(plain, key), _get(asked, key)
        if own == wanted or key in SETTLED:
            continue
        truncates = key == RANKS and own is None
        if truncates or (key in places and concerns_detection(*places[key])):
            _put(plain, key, wanted)
            notes.append(f"Tested with {key}={_spell(wanted)}; the checkpoint has {_spell(own)}.")
        else:
            refused.append(f"{key}={_spell(wanted)} (the checkpoint has {_spell(own)})")
    if refused:
        allowed = [key for key, place in places.items() if concerns_detection(*place)]
        raise SettingsError(
            f"With task=test this is not possible: {', '.join(refused)}. {path} has been trained "
            "otherwise, and brings its settings along: leave these out. Only what concerns "
            f"detection can be changed: {', '.join(allowed)}; and {RANKS} where the checkpoint "
            "has fc6 and fc7 whole."
        )
    return plain, notes


def _places(settings: DetectorSettings) -> dict[str, tuple[str, str]]:
    """Return the part and the field of a detector's settings for every key of the config."""
    found = {
        f"thresholds.{key}": (THRESHOLDS[prefix][0], name)
        for key, (prefix, name) in threshold_keys().items()
    }
    groups = {part: part for part in ("images", "backbone", "anchors", "pooling")}
    groups |= {
        part: f"model.{part}" for part in ("rpn", "box_predictor", "deltas", "warp", "losses")
    }
    for part, group in groups.items():
        for entry in fields(getattr(settings, part)):
            found[f"{group}.{entry.name}"] = (part, entry.name)
    return found


def _asked_for(keys: Sequence[str], overrides: Mapping[str, Any]) -> Iterator[str]:
    """Return those of ``keys`` that the overrides say something about."""
    said = {
        CHOICES.get(name, name) if isinstance(value, str) else name
        for name, value in overrides.items()
    }
    for key in keys:
        if any(key == name or key.startswith(f"{name}.") for name in said):
            yield key


def _get(plain: Mapping[str, Any], key: str) -> Any:
    value: Any = plain
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        plain = plain.setdefault(group, {})
    plain[last] = value


def _spell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace(" ", "")
