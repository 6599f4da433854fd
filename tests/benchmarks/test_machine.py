"""What a measurement knows of its machine and its process."""

import os
import sys

import pytest
import torch

from benchmarks.machine import in_a_process, processor, reset_peak, resident


def pid_and_threads(offset: int) -> tuple[int, int]:
    return os.getpid() + offset, torch.get_num_threads()


def test_a_function_runs_in_another_process_with_as_many_threads_as_asked() -> None:
    pid, threads = in_a_process(pid_and_threads, 0, threads=1)
    assert pid != os.getpid()
    assert threads == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak")
def test_the_peak_is_that_since_the_reset() -> None:
    del bytearray(50_000_000)[:]  # touched and freed again
    before = reset_peak()
    assert resident("peak") < before + 10e6
    block = torch.ones(50_000_000, dtype=torch.uint8)
    assert resident("peak") - before > 40e6
    del block


def test_the_processor_has_a_name() -> None:
    assert processor()
