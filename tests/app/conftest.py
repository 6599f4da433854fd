"""The real config, composed as train.py composes it, and train.py as people type it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rcnn.app.config import register_schema

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Composes the config with overrides, and resolves it."""
    register_schema()

    def function(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            config = compose("config", overrides=[*overrides, f"run_dir={tmp_path}", "name=test"])
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))

    return function


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs train.py on a CPU in ``tmp_path``, without workers and for one epoch."""

    def function(*words: str) -> subprocess.CompletedProcess[str]:
        own = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "loader.workers=0")
        # Hydra wants its options, such as -m, before the overrides.
        ordered = sorted([*own, *words], key=lambda word: not word.startswith("-"))
        command = [sys.executable, str(REPOSITORY / "train.py"), *ordered]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=900, env=environment
        )

    return function
