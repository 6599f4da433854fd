"""Mistakes of the user, told in a few lines instead of a traceback."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from rcnn.settings import nearest


def mistakes() -> tuple[type[Exception], ...]:
    """Return the errors that tell what the user can mend; their message is all that is needed.

    They are imported only once something has gone wrong: ``train.py --help`` answers at once.
    """
    from rcnn.data import DataError
    from rcnn.inference.checkpoint import CheckpointError
    from rcnn.model.backbones import WeightsError
    from rcnn.settings import SettingsError
    from rcnn.training.callbacks import NonFiniteLossError
    from rcnn.training.stages import StageError

    return (
        SettingsError,
        DataError,
        WeightsError,
        CheckpointError,
        StageError,
        NonFiniteLossError,
        HydraException,
        OmegaConfBaseException,
    )


@contextlib.contextmanager
def explained(conf: Path) -> Iterator[None]:
    """Print the message of a user's mistake and exit with status 2; let other errors through.

    Hydra hands errors on, instead of printing its own summary, only when asked for full errors.
    Set ``HYDRA_FULL_ERROR=1`` to see the traceback of mistakes, too.

    Args:
        conf: the folder of the config groups.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except Exception as error:
        if not isinstance(error, mistakes()):
            raise
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print("[bold red]Error:[/] " + escape(explain(error, conf)))
        sys.exit(2)
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def explain(error: Exception, conf: Path) -> str:
    """Return the message for people; what was mistyped on the command line gets its nearest.

    Args:
        error: one of :func:`mistakes`.
        conf: the folder of the config groups.
    """
    message = str(error)
    if unknown := re.search(r"Could not override '([\w.@/]+)'", message):
        key = unknown.group(1)
        keys = sorted(_keys(_composed_without(key, conf)))
        return f"Unknown key {key!r}{nearest(key, keys)} {_siblings(key, keys)}".strip()
    if missing := re.search(r"Could not find '(\w+)/(\w+)'", message):
        group, choice = missing.groups()
        choices = sorted(path.stem for path in (conf / group).glob("*.yaml"))
        return (
            f"There is no {group}={choice}{nearest(choice, choices)} "
            f"Choices of {group}: {', '.join(choices)}."
        )
    return message


def _composed_without(key: str, conf: Path) -> dict[str, Any]:
    """Compose the groups that the command line chooses, less the override of ``key``."""
    words = [word.partition("=") for word in sys.argv[1:] if not word.startswith("-")]
    groups = [
        f"{name}={choice}"
        for name, _, choice in words
        if (conf / name / f"{choice}.yaml").is_file() and name != key
    ]
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("config", overrides=groups)
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
