"""rcnn check-data: the report in three forms, and what a detector's settings change in it."""

import json
from pathlib import Path

import pytest

from rcnn.cli.main import main


def test_a_sound_split_has_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "shapes", "--split", "train"]) in (0, 1)
    printed = capsys.readouterr().out
    assert "300 images" in printed
    assert "ERROR" not in printed


def test_faults_of_files_are_errors_with_their_names_and_status_two(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (voc / "JPEGImages" / "1.jpg").write_bytes(b"\xff\xd8 no picture")
    text = (voc / "Annotations" / "3.xml").read_text()
    (voc / "Annotations" / "3.xml").write_text(text.replace("<xmax>", "<xmax>-", 1))
    assert main(["check-data", "voc", str(voc)]) == 2
    printed = capsys.readouterr().out
    assert "1.jpg" in printed
    assert "3.xml" in printed


def test_a_picture_in_two_splits_is_an_error(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (voc / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n2\n")
    (voc / "ImageSets" / "Main" / "val.txt").write_text("2\n3\n")
    assert main(["check-data", "voc", str(voc)]) == 2
    printed = capsys.readouterr().out
    assert "identical-in-two-splits" in printed
    assert "train/2 = val/2" in printed
    (voc / "ImageSets" / "Main" / "few.txt").write_text("0\n2\n")
    assert main(["check-data", "voc", str(voc), "--split", "few"]) < 2
    assert "few: 2 images" in capsys.readouterr().out


def test_the_report_as_json_and_as_a_page_has_every_finding(voc: Path, tmp_path: Path) -> None:
    for file in (voc / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<name>circle<", "<name>&lt;b&gt;circle<"))
    files = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]
    status = main(["check-data", "auto", str(voc), *files])
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["exit_status"] == status
    assert "<b>circle" in report["class_names"]
    html = (tmp_path / "r.html").read_text()
    assert "<b>circle" not in html
    assert all(finding["check"] in html for finding in report["findings"])
    assert "data:image/jpeg" in html or not any(f["files"] for f in report["findings"])


def test_settings_of_the_detector_change_what_its_anchors_reach(voc: Path, tmp_path: Path) -> None:
    reached = {}
    for name, words in {
        "fitting": ["anchors.scales=[2,3,4]", "images.shorter_side=160", "images.longer_side=160"],
        "huge": ["anchors.scales=[60,70,80]"],
        "none": ["model=fast_rcnn", "proposals.folder=x"],
    }.items():
        file = tmp_path / f"{name}.json"
        assert main(["check-data", "voc", str(voc), *words, "--json", str(file)]) < 2
        fit = json.loads(file.read_text())["anchor_fit"]
        reached[name] = None if fit is None else fit["reached"]
    assert reached["fitting"] > 0.1
    assert reached["huge"] == 0
    assert reached["none"] is None


def test_a_misspelt_setting_is_a_mistake_that_names_the_right_one(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check-data", "voc", str(voc), "anchors.scale=[2]"])
    assert caught.value.code == 2
    assert "anchors.scales" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["pascal", "VOC2007", "x"], ["shapes"]])
def test_a_data_set_in_parts_needs_a_split(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check-data", *words])
    assert caught.value.code == 2
    assert "--split" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo", "csv"])
def test_a_converted_data_set_is_read_again(
    voc: Path, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        main(["convert", "voc", str(voc), "--split", "all", "--to", layout, "--out", str(out)]) == 0
    )
    assert str(out) in capsys.readouterr().out
    assert main(["check-data", "auto", str(out)]) < 2
    assert "4 images" in capsys.readouterr().out
    assert main(["convert", "voc", str(voc), "--to", layout, "--out", str(out)]) == 2
