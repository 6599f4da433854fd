"""``rcnn report`` as people type it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rcnn.cli.main import main


def make(folder: Path, weight: int) -> Path:
    folder.mkdir(parents=True)
    config = {"name": "shapes", "seed": 0, "loss": {"weight": weight}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text('{"metrics": {"test/map": 0.5}, "seconds": 60.0}')
    return folder


def test_the_report_is_printed_and_written_to_the_sweeps_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "0", 1)
    make(tmp_path / "1", 10)
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "weight" in printed
    assert "50.0" in printed
    assert (tmp_path / "report.txt").is_file()
    assert (tmp_path / "report.csv").is_file()


def test_of_several_folders_the_report_goes_to_the_given_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(make(tmp_path / name, n)) for n, name in enumerate("ab")]
    assert main(["report", *folders]) == 0
    assert "Not written" in capsys.readouterr().out
    assert not list(tmp_path.rglob("report.*"))
    assert main(["report", *folders, "--out", str(tmp_path / "both"), "--metric", "seconds"]) == 0
    assert "seconds" in (tmp_path / "both" / "report.csv").read_text()


def test_a_folder_that_is_no_sweep_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "A sweep folder holds multirun.yaml" in capsys.readouterr().err


def test_a_report_needs_neither_torch_nor_hydra(tmp_path: Path) -> None:
    make(tmp_path / "0", 1)
    code = (
        "import sys\nfrom rcnn.cli.main import main\n"
        f"main(['report', {str(tmp_path)!r}])\n"
        "assert not {'torch', 'hydra', 'omegaconf', 'pytorch_lightning'} & set(sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
