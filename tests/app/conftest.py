"""The real config, composed as train.py composes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Composes the config with overrides, and resolves it."""

    def function(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=[*overrides, f"run_dir={tmp_path}", "name=test"])
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        return plain

    return function
