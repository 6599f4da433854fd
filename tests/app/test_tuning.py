"""``loader.batch_size=auto`` and ``task=find_lr``."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from rcnn.app import tuning
from rcnn.app.build import build_data
from rcnn.app.config import parse
from rcnn.app.tuning import with_batch_size
from rcnn.model.backbones import resolve
from rcnn.settings import SettingsError
from rcnn.training.tuning import RateCurve

Compose = Callable[..., dict[str, Any]]
Train = Callable[..., subprocess.CompletedProcess[str]]
AUTO = "loader.batch_size=auto"
TINY = [
    *("data.train=6", "data.val=2", "data.test=2", "data.size=64", "backbone.hidden=8"),
    *("images.shorter_side=64", "images.longer_side=64", "thresholds.roi_samples=16"),
    *("backbone=mobilenet_v3_large_fpn", "anchors=pyramid", "logger=csv"),
]

# --- size of a minibatch ------------------------------------------------------------------------


def test_a_number_is_left_alone(composed: Compose) -> None:
    plain = composed("loader.batch_size=3")
    assert with_batch_size(plain) == (plain, [])


def test_auto_is_the_size_that_was_measured_and_the_rate_is_explained(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[int] = []

    def measured(step: Callable[[int], None], count: int, device: Any) -> int:
        step(2)
        images.append(count)
        return 4

    monkeypatch.setattr(tuning, "largest_batch_size", measured)
    plain, (note,) = with_batch_size(composed(AUTO, "trainer=cpu", "loader.workers=0", *TINY))
    assert images == [6]
    assert parse(plain).loader.batch_size == 4
    assert note.startswith("loader.batch_size=4:")
    assert "epoch of 2 steps" in note
    assert "optimizer.scale_lr_to_batch=true multiplies it by 4/2" in note


def test_a_test_measures_nothing(composed: Compose) -> None:
    plain, notes = with_batch_size(composed(AUTO, "task=test", "ckpt_path=/x.ckpt"))
    assert isinstance(plain["loader"]["batch_size"], int)
    assert notes == []


def test_processes_of_a_launcher_cannot_agree_on_a_size(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"loader\.batch_size=auto.*give a number"):
        with_batch_size(composed(AUTO, *TINY))


# --- learning rate ------------------------------------------------------------------------------


@pytest.fixture
def found(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Runs ``task=find_lr`` with a curve that is given, and returns what was asked for."""

    def run(curve: RateCurve, *words: str) -> tuple[Any, dict[str, Any]]:
        asked: dict[str, Any] = {}

        def measured(trainer: Any, module: Any, data: Any, lr: float, steps: int) -> RateCurve:
            asked.update(
                steps=steps, lr=lr, max_steps=trainer.max_steps, val=data.source.has("val")
            )
            return curve

        monkeypatch.setattr(tuning, "rate_curve", measured)
        config = parse(composed("task=find_lr", "trainer=cpu", *TINY, *words))
        data = build_data(config)
        weights = resolve(config.detector["backbone"])
        return tuning.find_lr(config, data, weights), asked

    return run


CURVE = RateCurve([1e-4, 1e-3, 1e-2, 1e-1], [2.0, 1.5, 1.0, 9.0], 1e-3)


@pytest.mark.parametrize(
    ("words", "lr", "steps", "line"),
    [
        ([], 4.5e-4, 100, "optimizer.lr=0.001"),
        (["optimizer=sgd", "trainer.max_steps=30"], 1e-3, 30, "optimizer.lr=0.001"),
        (
            ["optimizer.scale_lr_to_batch=true"],
            *(4.5e-4, 100, "optimizer.lr=0.001 optimizer.scale_lr_to_batch=false"),
        ),
    ],
)
def test_the_suggestion_is_a_ready_override_beside_its_curve(
    words: list[str], lr: float, steps: int, line: str, found: Any, tmp_path: Path
) -> None:
    results, asked = found(CURVE, *words)
    assert asked == {"lr": lr, "steps": steps, "max_steps": steps, "val": False}
    assert results.notes[0].endswith(f": {line}")
    with (tmp_path / "lr_find.csv").open() as file:
        rows = [(float(row["learning_rate"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert rows == [*zip(CURVE.rates, CURVE.losses, strict=True)]
    with Image.open(tmp_path / "lr_find.png") as picture:
        assert picture.size == (960, 600)


def test_a_loss_that_never_falls_is_a_mistake_with_its_curve(found: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no learning rate.*lr_find\.csv"):
        found(RateCurve([1e-3, 1e-2], [1.0, 2.0], None))
    assert (tmp_path / "lr_find.png").is_file()


def test_a_checkpoint_has_a_rate_already(composed: Compose) -> None:
    with pytest.raises(SettingsError, match=r"ckpt_path=.*find_lr"):
        parse(composed("task=find_lr", "ckpt_path=/x.ckpt"))


@pytest.mark.slow
def test_rate_and_size_are_found_by_the_command_line(train: Train, tmp_path: Path) -> None:
    answer = train("task=find_lr", "trainer.max_steps=30", "name=rate", *TINY)
    assert answer.returncode in (0, 2), answer.stderr  # a mistake only where the loss never falls
    (folder,) = (tmp_path / "outputs" / "rate").iterdir()
    assert (folder / "lr_find.png").is_file()

    answer = train(AUTO, "name=size", "callbacks.early_stopping.patience=1", *TINY)
    assert answer.returncode == 0, answer.stderr
    (folder,) = (tmp_path / "outputs" / "size").iterdir()
    size = yaml.safe_load((folder / "config.yaml").read_text())["loader"]["batch_size"]
    assert (
        f"loader.batch_size={size}:"
        in json.loads((folder / "metrics.json").read_text())["notes"][0]
    )


@pytest.mark.slow
def test_a_run_with_a_time_limit_is_tested_all_the_same(train: Train, tmp_path: Path) -> None:
    words = ["trainer.max_time=00:00:00:03", "trainer.max_epochs=5000", *TINY]
    answer = train(*words)
    assert answer.returncode == 0, answer.stderr
    (folder,) = (tmp_path / "outputs" / "shapes").iterdir()
    record = json.loads((folder / "metrics.json").read_text())
    assert 0 < record["steps"] < 3 * 5000
    assert "test/map" in record["metrics"]
