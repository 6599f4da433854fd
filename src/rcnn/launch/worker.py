"""The life of one process that :func:`rcnn.launch.run_in_processes` starts."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class Report:
    """What a process says before it ends.

    Attributes:
        rank: whose report it is.
        seconds: when it was written, on a clock that the processes of a machine share.
        result: what the function returned, pickled; empty for all but rank 0.
        error: the exception, pickled; empty if there was none or it cannot be rebuilt elsewhere.
        trace: the traceback as text; empty if all went well.
    """

    rank: int
    seconds: float
    result: bytes = b""
    error: bytes = b""
    trace: str = ""


def work(rank: int, job: bytes, reports: Connection) -> None:
    """Run a job and report how it went.

    Args:
        rank: of this process.
        job: a pickled pair of a function and its arguments.
        reports: where the parent listens.
    """
    _fork_from_a_quiet_process()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if rank > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        function, arguments = pickle.loads(job)
        result = function(*arguments)
        report = Report(rank, time.monotonic(), result=pickle.dumps(result) if rank == 0 else b"")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)  # the parent was interrupted, too, and says so
    except Exception as error:
        report = Report(rank, time.monotonic(), error=_pickled(error), trace=_trace(error))
    reports.send(report)
    sys.exit(1 if report.trace else 0)


def _fork_from_a_quiet_process() -> None:
    """Let data loader workers be forked from a process that has no threads.

    In this one, threads that exchange tensors may hold one of Python's locks in the moment of a
    fork, and the worker would wait for that lock for ever (seen with Python 3.11 and gloo).
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("forkserver", force=True)
        multiprocessing.set_forkserver_preload(["rcnn.data"])  # imports torch, once for all


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        for loader in multiprocessing.active_children():
            loader.kill()
        os._exit(1)


def _pickled(error: Exception) -> bytes:
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return b""
    return data


def _trace(error: Exception) -> str:
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, frames))
