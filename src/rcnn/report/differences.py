"""In what the configs of several runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from rcnn.report.runs import Run

Flat: TypeAlias = Mapping[str, Any]
"""A config as dotted keys and values."""

SEEDS = ("seed", "loader.seed")
"""Runs that differ in nothing else are repetitions of one another."""

_NAMES = ("name", "system", "kind")
_NOT_COMPARED = ("sweep", "run_dir")


def flatten(run: Run) -> dict[str, Any]:
    """Return the config as dotted keys and hashable values, less what only says where it lies.

    What is null is left out: a key that an older config does not have yet is null in a newer one.
    """
    own = str(run.config.get("run_dir", ""))
    flat = {}
    for key, value in _leaves(run.config):
        if value is not None and key.split(".")[0] not in _NOT_COMPARED:
            is_place = own and isinstance(value, str) and own in value
            flat[key] = value.replace(own, "") if is_place else _frozen(value)
    return flat


def varying(flats: Sequence[Flat]) -> list[str]:
    """Return the keys that do not have the same value in all configs, but for the seeds."""
    keys = dict.fromkeys(key for flat in flats for key in flat if key not in SEEDS)
    return [key for key in keys if len({flat.get(key) for flat in flats}) > 1]


def telling(keys: Sequence[str], flats: Sequence[Flat]) -> list[str]:
    """Return few of ``keys`` that tell as many configs apart as all of them do.

    A choice of a group changes many keys at once; its name says it best, so names come first.
    """
    chosen: list[str] = []
    for key in sorted(keys, key=lambda key: key.split(".")[-1] not in _NAMES):
        if len(_kinds([*chosen, key], flats)) > len(_kinds(chosen, flats)):
            chosen.append(key)
    return sorted(chosen, key=list(keys).index)


def values(keys: Sequence[str], flat: Flat) -> tuple[Any, ...]:
    """Return the values of keys."""
    return tuple(flat.get(key) for key in keys)


def spelled(keys: Sequence[str], flat: Flat) -> tuple[str, ...]:
    """Return the values of keys for people; of a class only its name."""
    return tuple(
        _spell(flat.get(key)).rpartition(".")[2]
        if key.endswith("_target_")
        else _spell(flat.get(key))
        for key in keys
    )


def _kinds(keys: Sequence[str], flats: Sequence[Flat]) -> set[tuple[Any, ...]]:
    return {values(keys, flat) for flat in flats}


def _leaves(config: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, value


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _spell(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(_spell, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
