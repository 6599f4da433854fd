"""Folders of sweeps, made by hand."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

Job = Callable[..., Path]

DEFINITION: dict[str, Any] = {
    "title": "Weights",
    "source": "A paper, table 1",
    "data": "VOC 2007",
    "columns": {
        "mAP": {"tag": "test/map_50"},
        "training": {"tag": "seconds", "unit": "h"},
    },
    "rows": [
        {"label": "light", "where": {"loss.weight": 1}, "paper": {"mAP": 60.0}},
        {"label": "medium", "where": {"loss.weight": 10}, "paper": {"mAP": 70.0, "training": 9.5}},
        {"label": "heavy", "where": {"loss.weight": 100}},
    ],
}
"""The definition of a table of three rows."""


@pytest.fixture
def definition() -> dict[str, Any]:
    """The key ``sweep`` of the config of every job."""
    return copy.deepcopy(DEFINITION)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """An empty sweep folder, as Hydra makes it."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "multirun.yaml").write_text("hydra: {}\n")
    return folder


@pytest.fixture
def job(sweep: Path) -> Job:
    """Makes the next job of the sweep; ``map_50=None`` is one that has not finished."""

    def function(
        weight: float,
        map_50: float | None,
        seed: int = 0,
        definition: Mapping[str, Any] | None = DEFINITION,
        metrics: Mapping[str, float | None] | None = None,
        results: Mapping[str, object] | None = None,
        **more: object,
    ) -> Path:
        folder = sweep / str(len(list(sweep.iterdir())) - 1)
        folder.mkdir()
        config = {"name": "shapes", "run_dir": str(folder), "seed": seed, **more}
        config |= {"backbone": {"name": "resnet18"}, "loss": {"weight": weight}}
        config |= {"logger": {"save_dir": f"{folder}/logs"}, "loader": {"seed": seed}}
        config.setdefault("data", {"_target_": "rcnn.data.ShapesSource"})
        if definition is not None:
            config["sweep"] = definition
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "train.log").touch()
        if map_50 is not None:
            measured = {"test/map_50": map_50, "test/map": map_50 / 2, **(metrics or {})}
            found = {"metrics": measured, "seconds": 1800.0, "steps": 600, "weights": "random"}
            (folder / "metrics.json").write_text(json.dumps({**found, **(results or {})}))
        return folder

    return function
