"""The processes that load data end with the one that reads from them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

READER = """
import multiprocessing, sys
multiprocessing.set_start_method(sys.argv[1])
from rcnn.data import ShapesSource
from rcnn.training import DetectionDataModule, LoaderSettings

source = ShapesSource(train=8, val=2, test=2, size=64)
data = DetectionDataModule(source, LoaderSettings(workers=2))
batches = iter(data.train_dataloader())
next(batches)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
sys.stdin.read()
"""


def is_there(process: int) -> bool:
    """Return whether a process runs; one that has ended may still wait to be collected."""
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_workers_end_when_their_reader_is_killed(start: str) -> None:
    words = [sys.executable, "-W", "ignore", "-c", READER, start]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        workers = [int(word) for word in reader.stdout.readline().split()]
        assert len(workers) == 2
        assert all(is_there(worker) for worker in workers)
        os.kill(reader.pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while any(is_there(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(is_there(worker) for worker in workers)
