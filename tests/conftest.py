"""Fixtures that every part of the suite shares."""

import os
from pathlib import Path

import pytest
import torch


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
