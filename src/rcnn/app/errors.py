"""Mistakes of the user, told in a line instead of a traceback."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from rcnn.app.config import TARGETS
from rcnn.app.keys import nodes, target_keys, unknown_key
from rcnn.app.processes import ProcessFailedError
from rcnn.data import DataError
from rcnn.inference.checkpoint import CheckpointError
from rcnn.model.backbones import WeightsError
from rcnn.settings import SettingsError, nearest
from rcnn.training.callbacks import NonFiniteLossError
from rcnn.training.phases import PhaseError

MISTAKES = (
    SettingsError,
    DataError,
    WeightsError,
    CheckpointError,
    PhaseError,
    NonFiniteLossError,
    ProcessFailedError,
    MisconfigurationException,
    HydraException,
    OmegaConfBaseException,
)
"""Errors that the user can mend with their message alone."""


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
    except MISTAKES as error:
        line = Text.assemble(("Error: ", "bold red"), explain(error, conf))
        Console(stderr=True, highlight=False, soft_wrap=True).print(line)
        sys.exit(2)
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def explain(error: Exception, conf: Path) -> str:
    """Return the message for people; what was mistyped on the command line gets its nearest.

    Args:
        error: one of ``MISTAKES``.
        conf: the folder of the config groups.
    """
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, MISTAKES):
        return explain(error.__cause__, conf)  # raised while Hydra called a class for us
    message = str(error)
    if unknown := re.search(r"Could not override '([\w.@/]+)'", message):
        return _explain_key(unknown.group(1), conf)
    if missing := re.search(r"Could not find '([\w/]+)/(\w+)'", message):
        group, choice = missing.groups()
        choices = sorted(path.stem for path in (conf / group).glob("*.yaml"))
        return (
            f"There is no {group}={choice}{nearest(choice, choices)} "
            f"Choices of {group}: {', '.join(choices)}."
        )
    return " ".join([message, *getattr(error, "__notes__", [])])


def _explain_key(key: str, conf: Path) -> str:
    config = _composed_without(key, conf)
    keys = set(dict(nodes(config)))
    group = key.partition(".")[0]
    if group in TARGETS and "_target_" in config.get(group, {}):
        arguments = target_keys(config[group], group)
        if key in arguments:
            return f"{key} is not in the config yet: add it with +{key}=..."
        keys.update(arguments)
    return unknown_key(key, keys)


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
