"""Loggers that never stop a run."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger

CALLS = (
    *("log_metrics", "log_hyperparams", "log_graph"),
    *("save", "finalize", "after_save_checkpoint"),
)
"""What a trainer calls of a logger."""


def tolerant(name: str, make: Callable[[], Logger]) -> Logger | None:
    """Return a logger that warns when it first fails, and does nothing from then on.

    Args:
        name: name of the logger, for the warning.
        make: factory of the logger; None is returned if it fails already.
    """
    failed = False

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def method(*args: Any, **kwargs: Any) -> Any:
            nonlocal failed
            if failed:
                return None
            try:
                return call(*args, **kwargs)
            except Exception as error:
                failed = True
                cause = error.__cause__ or error  # Hydra wraps what a factory raises
                logging.getLogger("rcnn").warning(
                    "logger=%s fails, and the run goes on without it: %s: %s",
                    *(name, type(cause).__name__, cause),
                )

        return method

    logger: Logger | None = guarded(make)()
    for call in CALLS if logger is not None else ():
        setattr(logger, call, guarded(getattr(logger, call)))
    return logger


def finish(loggers: Iterable[Logger]) -> None:
    """End the run of Weights & Biases, into which the next run of this process would log, too."""
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        importlib.import_module("wandb").finish()
