"""rcnn check-data, on the data sets that the other commands take too."""

from pathlib import Path

import pytest

from rcnn.cli.main import main


def test_a_sound_data_set_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "shapes", "--split", "val"]) == 0
    printed = capsys.readouterr().out
    assert "20 images" in printed
    assert "0 images unreadable" in printed


def test_all_faults_are_reported_and_the_exit_status_is_one(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (voc / "JPEGImages" / "1.jpg").write_bytes(b"\xff\xd8 no picture")
    text = (voc / "Annotations" / "3.xml").read_text()
    (voc / "Annotations" / "3.xml").write_text(text.replace("<xmax>", "<xmax>-", 1))
    assert main(["check-data", "voc", str(voc)]) == 1
    printed = capsys.readouterr().out
    assert "1.jpg" in printed
    assert "3.xml" in printed


def test_a_split_of_a_folder_has_fewer_pictures(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (voc / "ImageSets" / "Main" / "few.txt").write_text("0\n2\n")
    assert main(["check-data", "voc", str(voc)]) == 0
    assert "4 images" in capsys.readouterr().out
    assert main(["check-data", "voc", str(voc), "--split", "few"]) == 0
    assert "2 images" in capsys.readouterr().out


def test_names_with_brackets_are_printed_as_they_are(
    make_voc: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "voc"
    assert callable(make_voc)
    make_voc()
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<name>circle<", "<name>[bold]circle<"))
    main(["check-data", "voc", str(root)])
    assert "[bold]circle" in capsys.readouterr().out


def test_coco_is_read_from_its_file(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared_data / "voc100"
    file, images = folder / "instances_coco.json", folder / "JPEGImages"
    assert main(["check-data", "coco", str(file), "--images", str(images)]) == 0
    assert "100 images" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["pascal", "VOC2007", "x"], ["shapes"]])
def test_a_data_set_in_parts_needs_a_split(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["check-data", *words])
    assert stopped.value.code == 2
    assert "--split" in capsys.readouterr().err


def test_faults_are_always_skipped_so_that_all_are_reported() -> None:
    with pytest.raises(SystemExit):
        main(["check-data", "voc", "x", "--on-error", "raise"])
