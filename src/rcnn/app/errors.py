"""Mistakes of the user, told in a few lines instead of a traceback."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from rcnn.data import DataError
from rcnn.model.backbones import WeightsError
from rcnn.settings import SettingsError, nearest
from rcnn.training.checkpoint import CheckpointError

MISTAKES = (
    SettingsError,
    DataError,
    WeightsError,
    CheckpointError,
    HydraException,
    OmegaConfBaseException,
)
"""Errors that tell what the user can mend; their message is all that is needed."""


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Print the message of a user's mistake and exit with status 2; let other errors through.

    Hydra hands errors on, instead of printing its own summary, only when asked for full errors.
    Set ``HYDRA_FULL_ERROR=1`` to see the traceback of mistakes, too.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except MISTAKES as error:
        Console(stderr=True, highlight=False).print(
            "[bold red]Error:[/]", explain(error), soft_wrap=True
        )
        sys.exit(2)
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def explain(error: Exception) -> str:
    """Return the message for people; a mistyped key of the command line gets its nearest."""
    message = str(error)
    unknown = re.search(r"Could not override '([\w.@/]+)'", message)
    if unknown is None:
        return message
    key = unknown.group(1)
    keys = sorted(_keys(_composed_without(key)))
    return f"Unknown key {key!r}{nearest(key, keys)} {_siblings(key, keys)}"


def _composed_without(key: str) -> dict[str, Any]:
    """Compose what the command line asks for, less the overrides of ``key``."""
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    groups = [word for word in words if "." not in word.partition("=")[0] and "," not in word]
    overrides = [word for word in groups if word.partition("=")[0].lstrip("+~") != key]
    if not GlobalHydra.instance().is_initialized():
        return {}
    try:
        config = compose("config", overrides=overrides)
    except HydraException:
        config = compose("config")
    return cast(dict[str, Any], OmegaConf.to_container(config))


def _keys(config: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for key, value in config.items():
        name = f"{where}.{key}" if where else key
        yield name
        if isinstance(value, Mapping):
            yield from _keys(value, name)


def _siblings(key: str, keys: list[str]) -> str:
    group = key.rpartition(".")[0]
    names = [name for name in keys if name.rpartition(".")[0] == group]
    return f"Known keys{f' of {group}' if group else ''}: {', '.join(names)}." if names else ""
