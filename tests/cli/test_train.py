"""``rcnn train`` is train.py in any folder, with the configs of the repository or of the wheel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rcnn
from rcnn.cli import train
from rcnn.cli.main import main
from rcnn.cli.train import overrides_of

REPOSITORY = Path(__file__).parents[2]


def test_the_configs_are_those_of_the_repository_or_else_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train.conf_folder() == REPOSITORY / "conf"
    monkeypatch.setattr(rcnn, "__file__", str(tmp_path / "lib" / "rcnn" / "__init__.py"))
    assert train.conf_folder() == tmp_path / "lib" / "rcnn" / "conf"


def test_the_help_of_train_py_needs_no_torch() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['train.py', '--help']\n"
        f"try: runpy.run_path({str(REPOSITORY / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "assert not {'torch', 'hydra'} & set(sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "--cfg job" in answer.stdout


@pytest.mark.slow
def test_it_trains_in_an_empty_folder_and_tells_mistakes(tmp_path: Path) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; from rcnn.cli.main import main; sys.exit(main())"
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
        return subprocess.run(
            [sys.executable, "-c", code, "train", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    tiny = ("data.train=2", "data.val=2", "data.test=2", "data.size=64", "trainer.max_epochs=1")
    answer = command(*tiny, "trainer.accelerator=cpu", "loader.workers=0")
    assert answer.returncode == 0, answer.stderr
    assert len(list(tmp_path.rglob("metrics.json"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    wrong = command("trainer.max_epoch=1")
    assert wrong.returncode == 2
    assert "trainer.max_epochs" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_folder_is_its_data_set_and_a_misspelt_one_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it's mine"
    folder.mkdir()
    assert overrides_of(str(folder)) == ["data=auto", f"data.root='{tmp_path}/it\\'s mine'"]
    assert overrides_of("backbone=vgg16") == ["backbone=vgg16"]
    assert main(["train", str(tmp_path / "nowhere"), "backbone=vgg16"]) == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err
