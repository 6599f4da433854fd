"""The rcnn command: help, and mistakes of one line."""

import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from rcnn.cli.main import COMMANDS, main

Save = Callable[..., Path]


def mistake(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that is wrong, and return the line that it prints."""
    try:
        status = main([str(word) for word in words])
    except SystemExit as stopped:  # argparse leaves by itself
        status = stopped.code if isinstance(stopped.code, int) else -1
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.startswith("Error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_every_command_is_listed_and_has_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert set(COMMANDS) <= set(capsys.readouterr().out.split())
    for command in COMMANDS.values():
        assert callable(pkgutil.resolve_name(command.run))


@pytest.mark.parametrize(
    "words",
    [[], *([name] for name in COMMANDS), ["evaluate", "x", "coco"], ["propose", "rpn", "x", "voc"]],
    ids=" ".join,
)
def test_help_is_printed_without_loading_torch(words: list[str]) -> None:
    code = (
        "import sys\nfrom rcnn.cli.main import main\n"
        f"try: main({[*words, '--help']!r})\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "assert not {'torch', 'numpy', 'pandas', 'rich', 'hydra'} & set(sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(" ".join(["usage: rcnn", *words[:1]]))


def test_the_help_of_train_names_every_group_with_its_choices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "-m", "backbone=vgg16,resnet18", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    groups = ("backbone", "anchors", "thresholds", "pooling", "model", "scheme", "data")
    for group in (*groups, "optimizer", "trainer", "logger", "callbacks", "experiment", "sweep"):
        assert f" {group} (" in printed
    assert "scheme (alternating, exact, joint, " in printed
    assert "--cfg job" in printed


def test_unknown_words_and_numbers_out_of_range_are_mistakes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "command" in mistake(capsys)
    assert "'detect'" in mistake(capsys, "detect")
    layout = mistake(capsys, "evaluate", "x.ckpt", "pascal_voc", "y")
    assert all(name in layout for name in ("'pascal_voc'", "voc", "pascal", "coco", "shapes"))
    assert "--split" in mistake(capsys, "evaluate", "x.ckpt", "voc", "y")
    assert "--images" in mistake(capsys, "check-data", "coco", "x.json")
    assert "'weekend'" in mistake(capsys, "check-data", "shapes", "--split", "weekend")
    assert "'0'" in mistake(capsys, "predict", "x.ckpt", "x.jpg", "--batch-size", 0)
    search = ("propose", "selective-search", "shapes", "--split", "val")
    assert "'0'" in mistake(capsys, *search, "--limit", 0)
    for number in ("--repeats", "--rois"):
        assert "'0'" in mistake(capsys, "compress", "x.ckpt", "--ranks", 8, 4, number, 0)


def test_a_missing_or_foreign_checkpoint_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, foreign, broken = (tmp_path / f"{name}.ckpt" for name in ("none", "other", "broken"))
    torch.save({"fc.weight": torch.zeros(1)}, foreign)
    broken.write_text("not a checkpoint\nin two lines")
    for checkpoint in (missing, foreign, broken):
        for words in (["predict", "{}", "x.jpg"], ["inspect", "{}", "x.jpg"]):
            line = mistake(capsys, *(word.format(checkpoint) for word in words))
            assert str(checkpoint) in line
        line = mistake(capsys, "evaluate", checkpoint, "shapes", "--split", "val")
        assert str(checkpoint) in line


def test_a_missing_picture_an_empty_folder_and_a_missing_device_are_mistakes(
    saved: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, folder = saved(), tmp_path / "[red]folder"
    folder.mkdir()
    (folder / "notes.txt").touch()
    Image.new("RGB", (8, 8)).save(folder / ".hidden.png")
    assert "none.jpg" in mistake(capsys, "predict", checkpoint, tmp_path / "none.jpg")
    assert "[red]folder" in mistake(capsys, "predict", checkpoint, folder)
    assert "none.jpg" in mistake(capsys, "inspect", checkpoint, tmp_path / "none.jpg")
    for device in ("toaster", "cuda:99"):
        line = mistake(capsys, "predict", checkpoint, tmp_path, "--device", device)
        assert f"--device {device}" in line


def test_an_unknown_split_and_a_folder_of_another_layout_are_mistakes(
    saved: Save, voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "weekend" in mistake(capsys, "evaluate", saved(), "voc", voc, "--split", "weekend")
    folder = voc / "ImageSets"
    assert str(folder) in mistake(capsys, "evaluate", saved(), "voc", folder, "--split", "test")
    assert "none.json" in mistake(capsys, "evaluate", saved(), "coco", "none.json", "--images", voc)


def test_ctrl_c_ends_a_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rcnn.cli.check_data.diagnose", interrupted)
    assert main(["check-data", "shapes", "--split", "val"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
