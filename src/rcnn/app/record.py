"""What a run leaves behind so that it can be understood and repeated."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from rcnn.files import whole_file, write_json

PACKAGES = (
    "rcnn",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "numpy",
)


def write_start(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.yaml`` (resolved) and ``environment.json`` at the start of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "config.yaml") as partial:
        partial.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))), encoding="utf-8")
    write_json(folder / "environment.json", environment())


def environment() -> dict[str, Any]:
    """Return the command, the code's commit, the versions of the packages, and the machine."""
    return {
        "command": " ".join(sys.argv),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "processors": os.cpu_count(),
        "accelerators": [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ],
    }


def _git(*arguments: str) -> str | None:
    """Ask git about the code that runs; None where there is no repository or no git."""
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
