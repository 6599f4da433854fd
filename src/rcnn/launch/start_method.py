"""How a process that a sweep's launcher has started starts others."""

from __future__ import annotations

import multiprocessing


def settle_start_method() -> None:
    """Let this process start others in Python's own way.

    joblib's processes have joblib's way, in which no worker of a data loader can be started.
    """
    own = multiprocessing.get_all_start_methods()
    if multiprocessing.get_start_method() not in own:
        multiprocessing.set_start_method(own[0], force=True)  # the first is the platform's default
