"""How far a training has come: minibatches, time, speed, and what a user sees of it."""

import csv
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    ModelCheckpoint,
    RichProgressBar,
    Timer,
    WeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from rcnn.data import ShapesSource
from rcnn.training import DetectionDataModule, LoaderSettings
from rcnn.training.progress import Progress, Throughput, batches_done, reopen_loader, timer_of
from tests.training.toy import Batch, Batches, MakeTrainer, Numbers, Recorder, Toy


def test_lightning_still_has_what_is_read_of_it_without_being_public(trainer: MakeTrainer) -> None:
    """Whoever sees this fail: see the head of rcnn/training/progress.py."""
    version, run = f"pytorch-lightning {metadata.version('pytorch-lightning')}", trainer()
    for owner, name in (
        (run.fit_loop.epoch_loop.batch_progress.total, "processed"),
        (run.fit_loop, "_data_fetcher"),
        (RichProgressBar, "_get_train_description"),
        (WeightAveraging(), "_average_model"),
        (WeightAveraging(), "_latest_update_step"),
    ):
        assert hasattr(owner, name), f"{version} has no {type(owner).__name__}.{name}"
    assert batches_done(run) == 0
    reopen_loader(run)


# --- a resumed training sees the minibatches of one that never stopped ------------------------

BATCHES = 3  # of an epoch
NUMBER = r"\d+\.\d+"


@pytest.mark.parametrize(("val", "workers"), [(0, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize("length", ["epochs", "steps"])
@pytest.mark.parametrize("stop", [BATCHES, BATCHES + 1])  # between epochs, and inside one
def test_a_resumed_training_goes_on_with_what_comes_next(
    trainer: MakeTrainer, tmp_path: Path, workers: int, val: int, length: str, stop: int
) -> None:
    def fit(steps: int, ckpt_path: Path | None = None) -> list[Any]:
        module = Recorder()
        source = ShapesSource(train=2 * BATCHES, val=val, test=0, size=64)
        every = None if stop == BATCHES else 1
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=every, save_top_k=-1)
        run = trainer(
            keep,
            max_epochs=-1 if length == "steps" else -(-steps // BATCHES),
            max_steps=steps if length == "steps" else -1,
            enable_checkpointing=True,
        )
        data = DetectionDataModule(source, LoaderSettings(workers=workers))
        run.fit(module, data, ckpt_path=ckpt_path)
        return module.seen

    whole = fit(3 * BATCHES)
    assert [number for number, *_ in whole] == list(range(3 * BATCHES))
    assert fit(3 * BATCHES, tmp_path / f"step={stop}.ckpt") == whole[stop:]


# --- the clock --------------------------------------------------------------------------------


def test_a_trainer_gets_one_clock(trainer: MakeTrainer) -> None:
    one = trainer()
    assert timer_of(one) is timer_of(one)
    limited = trainer(max_time=timedelta(hours=1))
    assert timer_of(limited).time_remaining() == 3600
    for run in (one, limited):
        assert sum(isinstance(callback, Timer) for callback in vars(run)["callbacks"]) == 1


def test_the_clock_of_a_resumed_training_counts_on(trainer: MakeTrainer) -> None:
    clock = timer_of(trainer())
    clock.load_state_dict({"time_elapsed": {"train": 60.0}})
    clock.on_train_start(trainer(), pl.LightningModule())
    clock.on_train_end(trainer(), pl.LightningModule())
    assert clock.time_elapsed() == pytest.approx(60, abs=1)


# --- images per second ------------------------------------------------------------------------


class Clock:
    """Runs only where a test lets it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def tick(clock: Clock, module: Any, *, training: float, validation: float = 0.0) -> None:
    """Let every training step and validation step take some seconds."""
    train, validate = module.training_step, module.validation_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        clock.now += training
        return train(batch, batch_idx)

    def validation_step(batch: Any, batch_idx: int) -> Any:
        clock.now += validation
        return validate(batch, batch_idx)

    module.training_step, module.validation_step = training_step, validation_step


@pytest.fixture
def speeds(toy: Toy, trainer: MakeTrainer, tmp_path: Path) -> Callable[..., list[float]]:
    """Trains the toy; returns the speeds that are logged, each of them beside a loss."""

    def fit(clock: Clock, *loaders: Any, **options: Any) -> list[float]:
        run = trainer(Throughput(clock), logger=CSVLogger(tmp_path, "", ""), **options)
        run.fit(toy, *loaders)
        with (tmp_path / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row.get("train/images_per_second")]
        assert all(row["train/loss"] for row in rows)
        return [float(row["train/images_per_second"]) for row in rows]

    return fit


Speeds = Callable[..., list[float]]


def test_a_window_of_steps_gives_one_value(toy: Toy, batches: Batches, speeds: Speeds) -> None:
    clock = Clock()
    tick(clock, toy, training=0.5)
    assert speeds(clock, batches(5), log_every_n_steps=2) == [4.0, 4.0]  # 2 images in 0.5 s


def test_validation_and_what_follows_it_do_not_count(
    toy: Toy, batches: Batches, speeds: Speeds
) -> None:
    clock = Clock()
    tick(clock, toy, training=0.5, validation=60.0)
    toy.on_train_epoch_end = lambda: setattr(clock, "now", clock.now + 30.0)
    found = speeds(clock, batches(2), batches(1), log_every_n_steps=3, max_epochs=3)
    assert found == [4.0, 4.0]


def test_waiting_for_data_counts(toy: Toy, speeds: Speeds) -> None:
    clock = Clock()
    tick(clock, toy, training=0.5)

    class Slow(Numbers):
        def __getitem__(self, index: int) -> Batch:
            clock.now += 0.5
            return super().__getitem__(index)

    loader = DataLoader(Slow(4, {}), batch_size=None)
    assert 2.0 <= speeds(clock, loader, log_every_n_steps=2)[-1] < 4.0


def test_accumulated_minibatches_count_for_their_step(
    toy: Toy, batches: Batches, speeds: Speeds
) -> None:
    clock = Clock()
    tick(clock, toy, training=0.5)

    def slow_at_first(batch: Batch, batch_idx: int) -> None:
        clock.now += 3.0 if batch_idx % 2 == 0 else 0.0

    toy.on_train_batch_start = slow_at_first
    found = speeds(clock, batches(4), log_every_n_steps=1, accumulate_grad_batches=2)
    assert found == [1.0, 1.0]  # four images take 3.5 and 0.5 seconds


def test_all_devices_count(
    toy: Toy, batches: Batches, trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    tick(clock, toy, training=0.5)
    run = trainer(Throughput(clock), log_every_n_steps=1)
    monkeypatch.setattr(type(run), "world_size", 4)
    run.fit(toy, batches(1))
    assert run.callback_metrics["train/images_per_second"].item() == 16.0


def test_the_time_of_a_test_leaves_its_first_minibatch_out(
    toy: Toy, batches: Batches, trainer: MakeTrainer
) -> None:
    clock = Clock()
    seconds = iter([60.0, 0.5, 1.0])

    def test_step(batch: Any, batch_idx: int) -> None:
        clock.now += next(seconds)

    toy.test_step = test_step
    (found,) = trainer(Throughput(clock)).test(toy, batches(3), verbose=False)
    assert found["test/seconds_per_image"] == pytest.approx(1.5 / 4)


# --- the bar in a terminal --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        (
            {"train/loss": 1.0, "train/loss_rpn_boxes": 0.2, "train/rois": 9.0, "val/loss": 0.5},
            {"loss": 1.0, "rpn_boxes": 0.2},
        ),
        ({}, {}),
    ],
)
def test_the_bar_names_the_losses(
    logged: dict[str, float],
    expected: dict[str, float],
    trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = trainer()
    tensors = {name: torch.tensor(value) for name, value in logged.items()}
    monkeypatch.setattr(type(run), "callback_metrics", property(lambda _: tensors))
    assert Progress().get_metrics(run, pl.LightningModule()) == pytest.approx(expected)


class Counting(Progress):
    """Notes after which step it read the losses."""

    def __init__(self, refresh_rate: int) -> None:
        super().__init__(refresh_rate)
        self.read: list[int] = []

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        if metrics and trainer.global_step not in self.read:
            self.read.append(trainer.global_step)
        return metrics


def test_losses_are_read_when_the_bar_is_drawn_and_at_the_end(
    toy: Toy,
    batches: Batches,
    trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    bar = Counting(refresh_rate=3)
    trainer(bar, enable_progress_bar=True).fit(toy, batches(8))
    assert bar.read == [3, 6, 8]
    assert re.search(rf"8/8 .*loss: {NUMBER}", capsys.readouterr().out)


# --- lines in a log file ----------------------------------------------------------------------

PROGRAM = """
    import warnings, torch, pytorch_lightning as pl
    warnings.simplefilter("ignore")
    from rcnn import (AnchorSettings, BackboneSettings, DetectionDataModule, DetectionModule,
                      DetectorSettings, ImageSettings, LoaderSettings)
    from rcnn.data import ShapesSource
    from rcnn.training.callbacks import Progress
    torch.manual_seed(0)
    module = DetectionModule(DetectorSettings(
        ("circle", "square", "triangle"), images=ImageSettings(64, 64),
        backbone=BackboneSettings("resnet18", weights=None), anchors=AnchorSettings((1.0,))))
    data = DetectionDataModule(ShapesSource(train=4, val=2, test=1, size=64),
                               LoaderSettings(workers=0))
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, callbacks=[Progress()], logger=False,
                         enable_checkpointing=False, enable_model_summary=False,
                         num_sanity_val_steps=1)
    trainer.fit(module, data)
"""
LINE = (
    rf"Epoch {{}}/2  step {{}}  loss {NUMBER} rpn_objectness {NUMBER} rpn_boxes {NUMBER} "
    rf"roi_classes {NUMBER} roi_boxes {NUMBER}  {NUMBER} images/s  0:00:\d\d left"
)
VALIDATION = (
    rf"Validation  Epoch {{}}/2  step {{}}  "
    rf"loss {NUMBER} map {NUMBER} map_50 {NUMBER} voc07_map {NUMBER} recall_300 {NUMBER}"
)


def test_without_a_terminal_each_epoch_and_each_validation_is_one_line() -> None:
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_INTERACTIVE")}
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env=plain,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line for line in output.splitlines() if line.startswith(("Epoch", "Validation"))]
    expected = [
        *(LINE.format(1, 2), VALIDATION.format(1, 2)),
        *(LINE.format(2, 4), VALIDATION.format(2, 4)),
    ]
    assert len(lines) == len(expected), output
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_line_holds_the_mean_since_the_last_one(
    toy: Toy, batches: Batches, trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where an epoch is validated twice and ends with some more steps."""
    seen: list[float] = []
    step = toy.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        outputs = step(batch, batch_idx)
        seen.append(outputs["loss"].item())
        return outputs

    toy.training_step = training_step
    run = trainer(Progress(), enable_progress_bar=True, val_check_interval=2)
    run.fit(toy, batches(5), batches(1))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    means = [sum(seen[:2]) / 2, sum(seen[2:4]) / 2, seen[4]]
    for mean, line in zip(means, lines, strict=True):
        assert f" loss {mean:.2f} " in line
