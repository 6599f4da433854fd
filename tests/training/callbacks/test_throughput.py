"""Images per second: what is counted, over which time, and where it is logged."""

import csv
from pathlib import Path

import pytest
from pytorch_lightning.loggers import CSVLogger

from rcnn.training.callbacks import Throughput


class Clock:
    """Stands still except where a test lets it run."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def tick(clock: Clock, module, *, training: float, validation: float = 0.0) -> None:
    """Let every training step and validation step take some seconds."""
    train, validate = module.training_step, module.validation_step

    def training_step(batch, batch_idx):
        clock.now += training
        return train(batch, batch_idx)

    def validation_step(batch, batch_idx):
        clock.now += validation
        return validate(batch, batch_idx)

    module.training_step, module.validation_step = training_step, validation_step


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row.get("train/images_per_second")]


def test_a_window_of_steps_gives_one_value_beside_the_losses(
    toy, batches, trainer, tmp_path: Path
) -> None:
    clock = Clock()
    tick(clock, toy, training=0.5)
    logger = CSVLogger(tmp_path, "", "")
    run = trainer(Throughput(clock), logger=logger, log_every_n_steps=2)
    run.fit(toy, batches(5))
    rows = logged(tmp_path)
    # Two images take half a second.
    assert [float(row["train/images_per_second"]) for row in rows] == [4.0, 4.0]
    assert [row["step"] for row in rows] == ["1", "3"]
    assert all(row["train/loss"] for row in rows)


def test_validation_and_what_follows_it_do_not_count(toy, batches, trainer, tmp_path: Path) -> None:
    clock = Clock()
    tick(clock, toy, training=0.5, validation=60.0)
    toy.on_train_epoch_end = lambda: setattr(clock, "now", clock.now + 30.0)
    run = trainer(
        Throughput(clock), logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=3, max_epochs=3
    )
    run.fit(toy, batches(2), batches(1))
    assert [float(row["train/images_per_second"]) for row in logged(tmp_path)] == [4.0, 4.0]


def test_waiting_for_data_counts(toy, batches, trainer, tmp_path: Path) -> None:
    clock = Clock()
    tick(clock, toy, training=0.5)
    loader = batches(4)
    read = loader.dataset.__class__.__getitem__

    class Slow(type(loader.dataset)):
        def __getitem__(self, index: int):
            clock.now += 0.5
            return read(self, index)

    loader.dataset.__class__ = Slow
    run = trainer(Throughput(clock), logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=2)
    run.fit(toy, loader)
    last = logged(tmp_path)[-1]
    assert 2.0 <= float(last["train/images_per_second"]) < 4.0


def test_accumulated_minibatches_count_for_their_step(
    toy, batches, trainer, tmp_path: Path
) -> None:
    clock = Clock()
    tick(clock, toy, training=0.5)

    def slow_at_first(_, batch_idx: int) -> None:
        clock.now += 3.0 if batch_idx % 2 == 0 else 0.0

    toy.on_train_batch_start = slow_at_first
    logger = CSVLogger(tmp_path, "", "")
    run = trainer(Throughput(clock), logger=logger, log_every_n_steps=1, accumulate_grad_batches=2)
    run.fit(toy, batches(4))
    rows = logged(tmp_path)
    # Four images take 3.5 and 0.5 seconds.
    assert [float(row["train/images_per_second"]) for row in rows] == [1.0, 1.0]


def test_all_devices_count(toy, batches, trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    tick(clock, toy, training=0.5)
    run = trainer(Throughput(clock), log_every_n_steps=1)
    monkeypatch.setattr(type(run), "world_size", 4)
    run.fit(toy, batches(1))
    assert run.callback_metrics["train/images_per_second"].item() == 16.0
