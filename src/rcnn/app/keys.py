"""The keys of a config, and those that the classes named by ``_target_`` take as arguments."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rcnn.settings import SettingsError, nearest, require

RENAMED = {
    "backbone.tail": "backbone.box_head",
    "loader.flip": "augment.flip",
    "loader.shorter_sides": "augment.shorter_sides",
    "model.head": "model.box_predictor",
    "thresholds.detection_refine": "thresholds.detection_ablate_regression",
    "thresholds.proposal_rank_test": "thresholds.proposal_ablate_ranking",
    "thresholds.proposal_refine_test": "thresholds.proposal_ablate_regression",
    "thresholds.proposal_unique_on_grid": "thresholds.proposal_dedup_on_feature_grid",
    "thresholds.roi_append_truth": "thresholds.roi_append_gt",
    "thresholds.roi_candidates": "thresholds.roi_ohem_candidates",
    "thresholds.roi_fill": "thresholds.roi_pad_with",
    "thresholds.roi_mining": "thresholds.roi_ohem",
    "thresholds.roi_per": "thresholds.roi_samples_per",
    "thresholds.roi_rois": "thresholds.roi_samples",
    "thresholds.rpn_best_within": "thresholds.rpn_low_quality_margin",
    "thresholds.rpn_inside_only": "thresholds.rpn_skip_border_anchors",
}
"""Keys of version 0.1 and their present names, for messages."""


def nodes(tree: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every node, groups before their keys."""
    for key, value in tree.items():
        yield f"{where}{key}", value
        if isinstance(value, Mapping):
            yield from nodes(value, f"{where}{key}.")


def leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by dotted key, without the groups."""
    return {key: value for key, value in nodes(tree) if not isinstance(value, Mapping)}


def unknown_key(key: str, keys: Iterable[str]) -> str:
    """Return a message that names the nearest of all valid keys, and those of the same group."""
    keys = sorted(keys)
    group, _, name = key.rpartition(".")
    hint = nearest(key, [other for other in keys if other.rpartition(".")[2] == name] or keys)
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            hint = f", did you mean {new + key.removeprefix(old)!r}?"
    names = [other.rpartition(".")[2] for other in keys if other.rpartition(".")[0] == group]
    siblings = f" Known keys{f' of {group}' if group else ''}: {', '.join(names)}." if names else ""
    return f"Unknown key {key!r}{hint}{siblings}"


# --- classes by their dotted paths --------------------------------------------------------------

HYDRA_KEYS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")

KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
"""The types of arguments that are checked; what is richer the class itself has to check."""


def check_targets(node: Any, where: str) -> None:
    """Check every ``_target_`` at or below ``node`` against its signature, without calling it.

    Raises:
        SettingsError: a class cannot be imported, has no such argument (the nearest is named),
            lacks one that it needs, or is given a value of the wrong simple type.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_call(node, where)
        for key, value in node.items():
            check_targets(value, f"{where}.{key}")
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            check_targets(value, f"{where}[{index}]")


def target_keys(node: Mapping[str, Any], where: str) -> list[str]:
    """Return the dotted keys of the arguments that a node's class takes.

    Raises:
        SettingsError: the class cannot be imported or called.
    """
    return [f"{where}.{name}" for name in inspect.signature(_locate(node, where)).parameters]


def _locate(node: Mapping[str, Any], where: str) -> Callable[..., Any]:
    path = node["_target_"]
    module_name, _, name = str(path).rpartition(".")
    try:
        target: Callable[..., Any] = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"{where}._target_={path!r} cannot be imported ({error}). It must be the dotted path "
            "of a class or function that Python finds from here."
        ) from error
    require(callable(target), f"{where}._target_", path, "it should name a class or a function")
    return target


def _check_call(node: Mapping[str, Any], where: str) -> None:
    target = _locate(node, where)
    parameters = inspect.signature(target).parameters
    call = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(call)
    except (NameError, TypeError):
        hints = {}  # an annotation exists for type checkers only
    open_ended = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    given = {key: value for key, value in node.items() if key not in HYDRA_KEYS}
    for key, value in given.items():
        if value == "???":
            raise SettingsError(f"{where}.{key} has to be given: {where}.{key}=...")
        if key in parameters:
            _check_value(hints.get(key, Any), value, f"{where}.{key}")
        elif not open_ended:
            raise SettingsError(unknown_key(f"{where}.{key}", target_keys(node, where)))
    missing = [
        name
        for name, one in parameters.items()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        and one.default is one.empty
        and name not in given
    ]
    if missing and not node.get("_partial_"):
        raise SettingsError(
            f"{where} lacks {', '.join(missing)}, which {node['_target_']} needs: "
            f"give {where}.{missing[0]}=..."
        )


def _check_value(hint: Any, value: Any, where: str) -> None:
    """Check a number, a text or a boolean where the annotation has no other types."""
    if not isinstance(value, str | int | float | bool):
        return
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        choices = ", ".join(map(repr, arguments))
        require(value in arguments, where, value, f"choose one of {choices}")
        return
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [kind for kind in (arguments if union else [hint]) if kind is not types.NoneType]
    if all(kind in KINDS for kind in kinds):
        fits = type(value) in kinds or (type(value) is int and float in kinds)
        allowed = f"it must be {' or '.join(KINDS[kind] for kind in kinds)}"
        require(fits, where, value, allowed)
