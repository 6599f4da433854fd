"""The data sets of the other commands, and all their faults."""

from pathlib import Path

import pytest

from rcnn.cli.main import main


def test_a_sound_data_set_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "shapes", "--split", "val"]) == 0
    told = capsys.readouterr().out
    assert "20 images" in told
    assert "0 left out, 0 images unreadable" in told


@pytest.mark.filterwarnings("ignore::rcnn.data.DataWarning")
def test_all_faults_are_told_and_not_only_the_first(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-data", "voc", str(shared_data / "bccd")]) == 1
    whole = capsys.readouterr().out
    assert "364 images" in whole
    assert len([line for line in whole.splitlines() if ".xml" in line]) > 1
    # A split of it has fewer pictures.
    main(["check-data", "voc", str(shared_data / "bccd"), "--split", "test"])
    assert "72 images" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::rcnn.data.DataWarning")
def test_coco_is_read_from_its_file(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared_data / "voc100"
    words = [str(folder / "instances_coco.json"), str(folder / "JPEGImages")]
    assert main(["check-data", "coco", *words]) == 0
    assert "100 images" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["pascal", "VOC2007", "x"], ["shapes"]])
def test_where_there_is_no_whole_a_split_is_named(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["check-data", *words])
    assert stopped.value.code == 2
    assert "--split" in capsys.readouterr().err


def test_what_to_do_about_faults_is_no_question(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["check-data", "voc", "x", "--on-error", "raise"])
    assert "--on-error" in capsys.readouterr().err
