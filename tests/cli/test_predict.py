"""rcnn predict and rcnn inspect."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.cli.main import main
from rcnn.cli.predict import find_pictures, name_drawings
from rcnn.training import DetectionModule

Save = Callable[..., Path]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (60, 40)) -> Path:
    """Write a picture of noise, of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def predict(checkpoint: Path, out: Path, *words: object) -> tuple[int, list[dict[str, Any]]]:
    """Run the command; return its status and what detections.json holds."""
    status = main(["predict", str(checkpoint), "--out", str(out), *map(str, words)])
    rows: list[dict[str, Any]] = json.loads((out / "detections.json").read_text())
    lines = (out / "detections.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    return status, rows


def test_pictures_of_a_folder_are_drawn_and_listed_as_python_finds_them(
    saved: Save, tmp_path: Path
) -> None:
    folder, out, checkpoint = tmp_path / "pictures", tmp_path / "out", saved()
    for name in ("a.jpg", "b.PNG", ".hidden.jpg", "._a.jpg"):
        picture(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / "deeper").mkdir()
    status, rows = predict(checkpoint, out, folder, "--score", 0.2, "--batch-size", 3)
    assert status == 0
    assert [Path(row["file"]).name for row in rows] == ["a.jpg", "b.PNG"]
    drawn = {"a.png", "b.png", "detections.json", "detections.jsonl"}
    assert {path.name for path in out.iterdir()} == drawn
    module = DetectionModule.load_from_checkpoint(checkpoint)
    for row in rows:
        found = module.predict(row["file"])
        expected = found.scores[found.scores >= 0.2].tolist()
        assert len(expected) > 0
        scores = [detection["score"] for detection in row["detections"]]
        assert scores == pytest.approx(expected, abs=1e-3)
        assert {detection["class"] for detection in row["detections"]} <= set(module.class_names)


def test_a_score_below_the_checkpoints_own_finds_more(saved: Save, tmp_path: Path) -> None:
    checkpoint, image = saved(), picture(tmp_path / "a.jpg")
    counts = [
        len(predict(checkpoint, tmp_path / "out", image, "--score", score)[1][0]["detections"])
        for score in (0, 0.999)
    ]
    assert counts[0] > counts[1]


def test_a_detector_of_one_class_predicts(saved: Save, tmp_path: Path) -> None:
    checkpoint = saved(names=("[bold]cell",))
    status, rows = predict(
        checkpoint, tmp_path / "out", picture(tmp_path / "a.jpg"), "--score", "0"
    )
    assert status == 0
    assert {detection["class"] for detection in rows[0]["detections"]} == {"[bold]cell"}


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "drawings"),
    [
        (["a.jpg"], ["a.png"]),
        (["a.jpg", "a.png", "b.jpg"], ["a.jpg.png", "a.png.png", "b.png"]),
        (["a.jpg", "A.png"], ["a.jpg.png", "A.png.png"]),
        (["cam1/0001.jpg", "cam2/0001.jpg"], ["cam1/0001.png", "cam2/0001.png"]),
        (["all/cam1/1.jpg", "all/1.jpg"], ["cam1/1.png", "1.png"]),
        (["a.jpg", "a.bmp", "a.jpg.webp"], ["a.jpg.png", "a.bmp.png", "a.jpg.webp.png"]),
    ],
)
def test_drawings_have_different_names(files: list[str], drawings: list[str]) -> None:
    assert name_drawings([Path(file) for file in files]) == [Path(name) for name in drawings]


def test_drawings_of_equal_names_stay_apart(saved: Save, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = picture(tmp_path / "cam1" / "1.jpg")
    other = picture(tmp_path / "cam2" / "1.jpg", size=(40, 60))
    status, rows = predict(saved(), out, one, other)
    assert status == 0
    assert [row["file"] for row in rows] == [str(one), str(other)]
    with Image.open(out / "cam1" / "1.png") as wide, Image.open(out / "cam2" / "1.png") as tall:
        assert wide.size == tall.size[::-1]


def test_a_picture_that_is_named_twice_is_one(tmp_path: Path) -> None:
    one, other = picture(tmp_path / "a.jpg"), picture(tmp_path / "b.jpg")
    assert find_pictures([str(other), str(tmp_path), str(one)]) == [other, one]


def test_no_picture_is_overwritten(
    saved: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    image, other = picture(folder / "a.jpg"), picture(folder / "a.png", seed=1)
    before = other.read_bytes()
    assert main(["predict", str(saved()), str(image), "--out", str(folder)]) == 2
    assert "a.png" in capsys.readouterr().err
    assert other.read_bytes() == before


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_broken_picture_is_reported_and_the_others_are_done(
    batch_size: int, saved: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "[dim]pictures", tmp_path / "out"
    for name in ("a.jpg", "c.jpg"):
        picture(folder / name)
    whole = picture(folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "d.png").write_text("no picture")
    status, rows = predict(saved(), out, folder, "--batch-size", batch_size)
    assert status == 1
    assert [Path(row["file"]).name for row in rows] == ["a.jpg", "c.jpg"]
    assert {path.name for path in out.glob("*.png")} == {"a.png", "c.png"}
    printed = capsys.readouterr()
    assert "2 pictures" in printed.out
    assert str(folder / "b.jpg") in printed.err
    assert str(folder / "d.png") in printed.err
    assert "2 of 4 pictures" in printed.err


def test_pictures_of_any_shape_are_done(saved: Save, tmp_path: Path) -> None:
    sizes = [(1, 1), (1, 300), (300, 1)]
    files = [picture(tmp_path / f"{i}.png", size=size) for i, size in enumerate(sizes)]
    assert predict(saved(), tmp_path / "out", *files)[0] == 0


def test_what_was_found_before_an_interruption_is_kept(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [picture(tmp_path / f"{name}.jpg") for name in "ab"]
    drawn: list[Any] = []

    def interrupted(image: Any, *others: Any) -> Any:
        if drawn:
            raise KeyboardInterrupt
        drawn.append(image)
        return image

    monkeypatch.setattr("rcnn.cli.predict.draw_detections", interrupted)
    out = tmp_path / "out"
    assert main(["predict", str(saved()), *map(str, files), "--out", str(out)]) == 130
    lines = (out / "detections.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == [str(files[0])]


def test_a_detector_without_rpn_is_refused(
    saved: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = picture(tmp_path / "a.jpg")
    for command in ("predict", "inspect"):
        assert main([command, str(saved(system="fast_rcnn")), str(image)]) == 2
        assert "fast_rcnn" in capsys.readouterr().err


# --- inspect --------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("cell",), ("cat", "dog")])
def test_inspect_writes_one_board(names: tuple[str, ...], saved: Save, tmp_path: Path) -> None:
    image, out = picture(tmp_path / "a.jpg"), tmp_path / "new" / "stages.png"
    assert main(["inspect", str(saved(names=names)), str(image), "--out", str(out)]) == 0
    with Image.open(out) as board:
        assert min(board.size) > 400
