"""Freed memory that stays with the process, seen by the pages that the system hands out."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
import statistics
import torch
from rcnn.training.allocator import keep_freed_memory

keep = {keep}
if keep:
    keep_freed_memory()

def step():
    layers = [torch.ones(16, 1024, 1024) for _ in range(4)]  # 64 MiB each
    del layers

def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(statistics.median([touched() for _ in range(7)]))
"""


def faults(keep: bool) -> int:
    """Count the pages that one of seven equal steps gets from the system, the median of them.

    Small blocks between the large ones, which lie elsewhere in each process, may make the heap grow
    once more after the first step.
    """
    code = FAULTS.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_step_touches_no_new_pages_once_freed_memory_is_kept() -> None:
    pages = 4 * 64 * 2**20 // 4096
    assert faults(keep=False) > pages // 2
    assert faults(keep=True) < pages // 100
