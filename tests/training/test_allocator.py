"""Freed memory that stays with the process, seen by the pages that the system hands out."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
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

for _ in range(5):  # small blocks between the large ones let the heap grow once or twice more
    step()
print({which}(touched() for _ in range(3)))
"""


def faults(keep: bool, which: str) -> int:
    """Count the pages that a step gets from the system, after five equal ones.

    Args:
        keep: whether freed memory is kept.
        which: "min" or "max" of three steps.
    """
    code = FAULTS.format(keep=keep, which=which)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_step_touches_no_new_pages_once_freed_memory_is_kept() -> None:
    pages = 4 * 64 * 2**20 // 4096
    assert faults(keep=False, which="min") > pages // 2
    assert faults(keep=True, which="max") < pages // 100
