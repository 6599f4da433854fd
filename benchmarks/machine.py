"""The machine of a measurement, and what a process takes of it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import torch

T = TypeVar("T")


def processor() -> str:
    """Return the name of the processor, as far as the system knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def in_a_process(function: Callable[..., T], *arguments: object, threads: int | None = None) -> T:
    """Return ``function(*arguments)`` of a fresh process, with memory and caches of its own.

    Args:
        function: function at the top level of a module.
        arguments: picklable arguments.
        threads: number of torch's threads; None: as many as in this process.
    """
    # A forked process would begin with the memory of this one.
    context = multiprocessing.get_context("spawn")
    count = torch.get_num_threads() if threads is None else threads
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (count,)) as pool:
        return pool.submit(function, *arguments).result()


def resident(size: Literal["now", "peak"] = "now") -> float:
    """Return the bytes of this process in memory; NaN where the system is not Linux."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024.0 * int(lines["VmRSS" if size == "now" else "VmHWM"].split()[0])


def reset_peak() -> float:
    """Let the peak of ``resident`` start from the memory in use, and return that."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # systems without glibc or /proc
        # Memory that was freed, but is still held, would be used again without raising the peak.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return resident()
