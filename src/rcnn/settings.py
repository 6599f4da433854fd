"""Settings: frozen pydantic dataclasses, and their plain form for checkpoints and config files.

The settings of a stage are defined beside its code::

    @settings
    class RPNSettings:
        channels: PositiveInt | None = 512
        objectness: Literal["softmax", "sigmoid"] = "softmax"

Types are strict (an integer may stand for a float and a list for a tuple, nothing else is
converted), ranges are part of the type, and an unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

S = TypeVar("S")

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number in 0..1."""

PositiveFraction = Annotated[float, Field(gt=0, le=1)]
"""A number in 0..1, above 0."""

FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
"""A number in 0..1, below 1."""


class SettingsError(ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


@dataclass_transform(frozen_default=True)
def settings(cls: type[S]) -> type[S]:
    """Make a class a frozen, strictly validated dataclass that raises ``SettingsError``."""
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    made = pydantic.dataclasses.dataclass(cls, frozen=True, config=config)
    validate = made.__init__

    @functools.wraps(validate)
    def validated_init(self: Any, *args: Any, **values: Any) -> None:
        try:
            validate(self, *map(_tuples, args), **{k: _tuples(v) for k, v in values.items()})
        except ValidationError as error:
            raise SettingsError(_describe(error, cls, "")) from None

    made.__init__ = validated_init  # type: ignore[method-assign]
    return typing.cast(type[S], made)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raise a ``SettingsError`` that names ``key``, ``value`` and what is allowed."""
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
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(cls: type[S], values: object, where: str = "") -> S:
    """Build settings of type ``cls`` from their plain form.

    Args:
        cls: a class made by ``settings``.
        values: keys and values; a missing key takes its default.
        where: the key of ``values`` in a larger config, for messages.

    Raises:
        SettingsError: for an unknown key (the nearest known one is named), a missing one without
            default, or a value that is not allowed.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{where or cls.__name__} must hold keys and values, not {values!r}.")
    try:
        # JSON has lists and objects only: read as such they pass for tuples and dataclasses.
        return typing.cast(
            S, _adapter(typing.cast(Any, cls)).validate_json(json.dumps(to_plain(values)))
        )
    except ValidationError as error:
        raise SettingsError(_describe(error, cls, where)) from None


def field_types(cls: type) -> dict[str, Any]:
    """Return the resolved annotation of every field of a dataclass, without its ranges."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


@functools.cache
def _adapter(cls: type) -> Any:
    return TypeAdapter(cls)


def _describe(error: ValidationError, cls: type, where: str) -> str:
    """Return the first of pydantic's errors as one sentence with key, value and remedy."""
    first: ErrorDetails = error.errors()[0]
    path, kind = [*first["loc"]], first["type"]
    if path and isinstance(path[0], int):  # a positional argument
        path[0] = dataclasses.fields(cls)[path[0]].name
    key = _join(where, path)
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = field_types(_class_at(cls, path[:-1]))
        return (
            f"Unknown key {key!r}{nearest(str(path[-1]), known)} "
            f"Known keys: {', '.join(sorted(known))}."
        )
    if kind in ("missing", "missing_argument"):
        return f"{key} is missing: it has no default."
    if kind == "value_error":  # raised by a __post_init__, which names its own keys
        cause = first.get("ctx", {}).get("error")
        return f"{key}.{cause}" if key and not key.endswith("_") else f"{key}{cause}"
    return f"{key}={first['input']!r} is not possible: it should {_allowed(first['msg'])}."


def _allowed(message: str) -> str:
    """Return what follows "should" in pydantic's message, in the words of this package."""
    allowed = re.sub(r"^\w+ should ", "", message)
    for theirs, ours in (
        ("a valid ", "a "),
        ("a integer", "an integer"),
        (" after validation", ""),
        ("be an object", "hold keys and values"),
        ("be an instance of", "be a"),
        ("a array", "a list"),
        ("a tuple", "a list"),
    ):
        allowed = allowed.replace(theirs, ours)
    return allowed


def _join(where: str, path: Sequence[int | str]) -> str:
    key = where
    for part in path:
        if isinstance(part, int):
            key += f"[{part}]"
        elif key and not key.endswith("_"):
            key += f".{part}"
        else:
            key += part
    return key


def _class_at(cls: type, path: Sequence[int | str]) -> type:
    """Return the dataclass that a path of keys and indices leads to."""
    for key in path:
        if isinstance(key, int):
            continue  # the elements of a list are all of one class
        for kind in _alternatives(field_types(cls).get(key)):
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                cls = kind
    return cls


def _alternatives(kind: Any) -> Iterator[Any]:
    """Yield an annotation and its parts: members of a union, elements of a tuple or dict."""
    yield kind
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) in (typing.Union, tuple, dict):
        for part in typing.get_args(kind):
            yield from _alternatives(part)
