"""The rcnn command as people type it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
from PIL import Image

from rcnn.cli.main import COMMANDS, main
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageSettings
from rcnn.training import DetectionModule


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    settings = DetectorSettings(
        ("cat", "dog"),
        images=ImageSettings(64, 64),
        backbone=BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None),
        anchors=AnchorSettings(scales=(1.0, 2.0)),
    )
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(DetectionModule(settings))
    trainer.save_checkpoint(tmp_path / "best.ckpt", weights_only=True)
    return tmp_path / "best.ckpt"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.jpg", "b.png"):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_help_lists_the_commands_without_loading_torch() -> None:
    code = (
        "import sys\nfrom rcnn.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert all(command in answer.stdout for command in COMMANDS)


def test_predict_draws_and_lists_the_pictures_of_a_folder(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(checkpoint), str(pictures), "--out", str(out), "--score", "0"]) == 0
    rows = json.loads((out / "detections.json").read_text())
    assert [Path(row["file"]).name for row in rows] == ["a.jpg", "b.png"]
    assert {path.name for path in out.iterdir()} == {"a.png", "b.png", "detections.json"}
    assert {found["class"] for row in rows for found in row["detections"]} <= {"cat", "dog"}


def test_inspect_writes_one_board(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "stages.png"
    assert main(["inspect", str(checkpoint), str(pictures / "a.jpg"), "--out", str(out)]) == 0
    with Image.open(out) as board:
        assert min(board.size) > 400


def test_mistakes_are_told_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(tmp_path / "none.ckpt"), "x.jpg"]) == 2
    assert "there is no such checkpoint" in capsys.readouterr().err
    assert main(["predict", str(checkpoint), str(tmp_path / "none.jpg")]) == 2
    assert "none.jpg: there is no such file or folder" in capsys.readouterr().err


def test_check_data_reports_faults_by_its_exit_status(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-data", "voc", str(shared_data / "voc100")]) == 0
    assert "100 images" in capsys.readouterr().out
