"""Both detectors go through the same training and test."""

from pathlib import Path

import pytest
import torch

from benchmarks.loading import draw
from benchmarks.quality import DETECTORS, FIGURES, compose_config, train


def test_a_config_is_that_of_train_py_with_its_overrides() -> None:
    config = compose_config("experiment=bccd", "data.root=x", "seed=3")
    assert config.run.seed == 3
    assert config.plain["data"]["root"] == "x"
    assert config.settings(("cell",), config.detector["backbone"]).images.shorter_side == 320


@pytest.mark.slow
def test_each_detector_has_a_row_with_its_figures(tmp_path: Path) -> None:
    root = draw(tmp_path / "voc", 3)
    splits = root / "ImageSets" / "Main"
    splits.mkdir(parents=True)
    (splits / "trainval.txt").write_text("0\n1\n")
    (splits / "test.txt").write_text("2\n")
    for detector in DETECTORS:
        row = train(detector, str(root), seed=0, epochs=1)
        assert (row["detector"], row["seed"], row["steps"]) == (detector, 0, 1)
        figures = torch.tensor([float(row[name]) for name in (*FIGURES, "map thing")])
        assert ((figures >= 0) & (figures <= 1)).all()
        assert row["map"] == row["map thing"]
