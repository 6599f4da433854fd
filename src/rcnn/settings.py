"""Settings as frozen dataclasses, and their plain form for checkpoints and config files.

A stage's settings live beside its code. This module turns them into numbers, strings, lists and
dictionaries and back, strictly: what is unknown or of the wrong type is an error naming the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

S = TypeVar("S")


class SettingsError(ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raise a :class:`SettingsError` naming ``key``, ``value`` and what is allowed, unless met."""
    if not condition:
        raise SettingsError(f"{key}={value!r} is not possible: {allowed}.")


def nearest(word: str, words: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the most similar of ``words``, or a full stop."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else "."


def to_plain(value: Any) -> Any:
    """Return settings as nested dictionaries and lists of numbers, strings, booleans and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(cls: type[S], values: object, where: str = "") -> S:
    """Build settings of type ``cls`` from their plain form.

    Args:
        cls: a settings dataclass; fields may be numbers, strings, booleans, literals, tuples,
            optional values and further dataclasses.
        values: the plain form, keys and values; a missing key takes the default.
        where: the key under which the values stand, for messages.

    Raises:
        SettingsError: for an unknown key (the nearest known one is named), a missing one without
            default, a value of the wrong type, or one that the dataclass itself refuses.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{where or cls.__name__} must hold keys and values, not {values!r}.")
    kinds = field_types(cls)
    for key in values:
        if key not in kinds:
            raise SettingsError(
                f"Unknown key {_join(where, key)!r}{nearest(str(key), kinds)} "
                f"Known keys: {', '.join(sorted(kinds))}."
            )
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        optional = field.default is not dataclasses.MISSING or (
            field.default_factory is not dataclasses.MISSING
        )
        if field.init and not optional and field.name not in values:
            raise SettingsError(f"{_join(where, field.name)} is missing: it has no default.")
    built = {key: _convert(kinds[key], value, _join(where, key)) for key, value in values.items()}
    try:
        return cls(**built)
    except SettingsError as error:
        raise SettingsError(_join(where, error)) from None


def field_types(cls: type) -> dict[str, Any]:
    """Return the resolved annotation of every field of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(kind: Any, value: Any, where: str) -> Any:
    """Return ``value`` as ``kind`` asks for it; integers pass for floats, lists for tuples."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else from_plain(kind, value, where)
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(repr(choice) for choice in arguments)
            raise SettingsError(f"{where}={value!r} is not possible: choose one of {choices}.")
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str, bool, types.NoneType):
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
        raise SettingsError(f"{where}={value!r} is not possible: it must be {_spell(kind)}.")
    raise TypeError(f"{where}: settings cannot hold {kind!r}")


def _convert_union(kinds: Sequence[Any], value: Any, where: str) -> Any:
    errors = []
    for kind in sorted(kinds, key=lambda kind: kind is not types.NoneType):
        try:
            return _convert(kind, value, where)
        except SettingsError as error:
            errors.append(error)
    raise errors[-1]


def _convert_tuple(kinds: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise SettingsError(f"{where}={value!r} is not possible: it must be a list.")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = [kinds[0]] * len(value)
    if len(kinds) != len(value):
        raise SettingsError(f"{where}={value!r} is not possible: it must have {len(kinds)} items.")
    return tuple(
        _convert(kind, item, f"{where}[{i}]")
        for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _spell(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(kind, "null")
