"""Fixtures that every part of the suite shares."""

import os
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # several processes share the processor's cores
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # of the programs that tests start
    torch.set_num_threads(threads)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images; tests that need it are skipped where it is not set."""
    folder = os.environ.get("RCNN_TEST_DATA")
    if not folder:
        pytest.skip("RCNN_TEST_DATA names no folder of real images")
    return Path(folder)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of randomness."""
    return torch.Generator().manual_seed(0)
