"""The environment variables by which a process learns its rank; the names are ``torchrun``'s."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator, Mapping

LOCALHOST = "127.0.0.1"


def shared_variables(port: int, processes: int) -> dict[str, str]:
    """Return the variables that are the same for all processes.

    Args:
        port: where the store for their meeting listens on this machine.
        processes: how many there are.
    """
    variables = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0",
        "MASTER_ADDR": LOCALHOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": uuid.uuid4().hex,  # by this Lightning knows that it was launched
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        # The store is the parent's, at a port that is bound already: nobody can take it meanwhile.
        "TORCHELASTIC_USE_AGENT_STORE": str(True),
    }
    if "OMP_NUM_THREADS" not in os.environ:
        free = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        variables["OMP_NUM_THREADS"] = str(max(free // processes, 1))
    return variables


def rank_variables(rank: int) -> dict[str, str]:
    """Return the variables of one process; all but the first keep their warnings to themselves."""
    variables = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    return variables if rank == 0 else variables | {"PYTHONWARNINGS": "ignore"}


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
