"""Holding ``_target_`` nodes against the signatures of what they name, without calling it."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rcnn.settings import SettingsError, nearest

_HYDRA_KEYS = {"_target_", "_partial_", "_args_", "_convert_", "_recursive_"}
_PLAIN = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def check_targets(node: Any, where: str) -> None:
    """Check every ``_target_`` at or below ``node``.

    Raises:
        SettingsError: a class cannot be imported, has no such argument (the nearest is named),
            misses one that it needs, or is given a value of the wrong simple type.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_call(node, where)
        for key, value in node.items():
            check_targets(value, f"{where}.{key}")
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for position, value in enumerate(node):
            check_targets(value, f"{where}[{position}]")


def locate(path: str, where: str) -> Callable[..., Any]:
    """Import what a dotted path names.

    Raises:
        SettingsError: it cannot be imported or called.
    """
    module_name, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"{where}._target_={path!r} cannot be imported ({error}). It must be the dotted path "
            "of a class or function that Python finds from here."
        ) from error
    if not callable(found):
        raise SettingsError(f"{where}._target_={path!r} is a {type(found).__name__}, not a class.")
    return typing.cast(Callable[..., Any], found)


def _check_call(node: Mapping[str, Any], where: str) -> None:
    target = locate(node["_target_"], where)
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {key: value for key, value in node.items() if key not in _HYDRA_KEYS}
    for key, value in given.items():
        if value == "???":
            raise SettingsError(f"{where}.{key} has to be given: {where}.{key}=...")
        if key not in parameters:
            if open_ended:
                continue
            names = [f"{where}.{name}" for name in parameters]
            raise SettingsError(
                f"Unknown key '{where}.{key}'{nearest(f'{where}.{key}', names)} "
                f"{node['_target_']} knows: {', '.join(sorted(parameters))}."
            )
        _check_value(_hint(target, key), value, f"{where}.{key}")
    needed = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    missing = [name for name in needed if name not in given]
    if missing and not node.get("_partial_"):
        raise SettingsError(
            f"{where} lacks {', '.join(missing)}, which {node['_target_']} needs: "
            f"give {where}.{missing[0]}=..."
        )


def _hint(target: Callable[..., Any], name: str) -> Any:
    call = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        return typing.get_type_hints(call).get(name, Any)
    except (NameError, TypeError):
        return Any  # an annotation that exists for type checkers only


def _check_value(hint: Any, value: Any, where: str) -> None:
    """Check numbers, texts and booleans; leave everything richer to the class itself."""
    if not isinstance(value, str | int | float | bool):
        return
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    if typing.get_origin(hint) is typing.Literal:
        choices = ", ".join(repr(choice) for choice in typing.get_args(hint))
        if value not in typing.get_args(hint):
            raise SettingsError(f"{where}={value!r} is not possible: choose one of {choices}.")
        return
    simple = [kind for kind in kinds if kind in _PLAIN]
    if len(simple) != len([kind for kind in kinds if kind is not types.NoneType]):
        return
    accepted = tuple(simple) + ((int,) if float in simple else ())
    fits = isinstance(value, accepted) and (not isinstance(value, bool) or bool in simple)
    if not fits:
        allowed = " or ".join(_PLAIN[kind] for kind in simple)
        raise SettingsError(f"{where}={value!r} is not possible: it must be {allowed}.")
