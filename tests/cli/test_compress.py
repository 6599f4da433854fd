"""``rcnn compress``, on a detector with an fc6 of 12544 x 32 and an fc7 of 32 x 32."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from rcnn.cli.main import main
from rcnn.training import DetectionModule

Save = Callable[..., Path]
FAST = ("--repeats", "1", "--workers", "0")


def compress(checkpoint: Path, *words: object) -> int:
    return main(["compress", str(checkpoint), *FAST, *(str(word) for word in words)])


def test_ranks_give_a_smaller_checkpoint_and_one_table(
    saved: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = saved(), tmp_path / "new" / "[red]small.ckpt"
    assert compress(checkpoint, "--ranks", 8, 4, "--out", out) == 0
    assert list(out.parent.iterdir()) == [out]
    assert out.stat().st_size < checkpoint.stat().st_size
    module = DetectionModule.load_from_checkpoint(out)
    assert module.settings.backbone.ranks == (8, 4)
    module.predict(torch.zeros(3, 40, 60, dtype=torch.uint8))
    printed = capsys.readouterr().out
    for words in ("whole", "8/4", "parameters", "backbone", "roi pooling", "box head", str(out)):
        assert words in printed
    assert "mAP" not in printed


def test_energy_chooses_ranks_and_data_gives_map_before_and_after(
    saved: Save, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.ckpt"
    data = ("--data", "voc", voc, "--split", "test")
    assert compress(saved(), "--energy", 0.3, "--out", out, *data) == 0
    ranks = DetectionModule.load_from_checkpoint(out).settings.backbone.ranks
    assert ranks is not None
    assert all(0 < rank < 32 for rank in ranks)
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "mAP@.5 " in line)
    assert row.count("│") == 4  # a column before, one after


def test_milliseconds_are_kept_by_the_costs_of_the_machine(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def cost(layer: torch.nn.Linear, rois: int) -> torch.Tensor:
        asked.append(rois)
        return torch.tensor([16.0, *range(1, 17)]).double() / 1000  # 1 ms a rank

    monkeypatch.setattr("rcnn.inference.compress.measure_layer", cost)
    out = tmp_path / "small.ckpt"
    assert compress(saved(), "--milliseconds", 10.5, "--rois", 50, "--out", out) == 0
    ranks = DetectionModule.load_from_checkpoint(out).settings.backbone.ranks
    assert ranks is not None
    assert sum(ranks) == 10
    assert asked == [50, 50]


@pytest.mark.parametrize(
    "choice",
    [("--ranks", 8, 4, "--ranks", 8, 0, "--ranks", 2, 2), ("--energy", 0.2, 0.3, 0.6)],
)
def test_a_curve_is_a_picture_and_its_figures(
    choice: tuple[object, ...], saved: Save, voc: Path, tmp_path: Path
) -> None:
    curve = tmp_path / "curve.png"
    data = ("--data", "voc", voc, "--split", "test")
    assert compress(saved(), *choice, "--curve", curve, *data) == 0
    with Image.open(curve) as picture:
        assert picture.size == (960, 600)
    with curve.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert (rows[0]["fc6_rank"], rows[0]["fc7_rank"]) == ("0", "0")
    if choice[0] == "--ranks":
        assert [row["fc7_rank"] for row in rows[1:]] == ["4", "0", "2"]
    stages = [float(rows[1][name]) for name in rows[1] if name.startswith("seconds_")]
    assert float(rows[1]["seconds"]) == pytest.approx(sum(stages))


def test_pictures_are_timed_with_random_boxes_for_a_system_that_makes_no_proposals(
    saved: Save, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = sorted((voc / "JPEGImages").iterdir())[:3]
    words = ("--ranks", 8, 4, "--rois", 5, "--out", tmp_path / "small.ckpt", "--pictures")
    assert compress(saved(system="fast_rcnn"), *words, *pictures) == 0
    assert "3 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--ranks 8 4", "--out"),
        ("--ranks 8 4 --ranks 4 4 --out x.ckpt", "--out"),
        ("--ranks 8 4 --curve x.png", "--data"),
        ("--ranks 8 4 --out whole.ckpt", "whole.ckpt"),
        ("--ranks 33 4 --out x.ckpt", "fc6 (12544 to 32)"),
        ("--energy 1.5 --out x.ckpt", "energy=1.5"),
        ("--ranks 8 4 --curve x.jpg --data voc y --split z", ".png"),
    ],
)
def test_a_mistake_is_an_error_of_one_line_and_nothing_is_written(
    words: str,
    named: str,
    saved: Save,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = saved()
    assert compress(checkpoint, *words.split()) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["whole.ckpt"]


def test_layer4_is_refused_with_a_way_out(
    saved: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--ranks", 8, 4, "--out", tmp_path / "small.ckpt")
    assert compress(saved(box_head="own"), *words) == 2
    assert "backbone.box_head=two_mlp" in capsys.readouterr().err


@pytest.mark.parametrize("choice", [(), ("--ranks", 8, 4, "--energy", 0.9)])
def test_there_is_one_way_to_choose_ranks(choice: tuple[object, ...]) -> None:
    with pytest.raises(SystemExit):
        compress(Path("x.ckpt"), *choice, "--out", "y.ckpt")
