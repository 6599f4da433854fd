"""A training's time travels with its checkpoints."""

from datetime import timedelta

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

from rcnn.training.timing import timer_of


def trainer(max_time: timedelta | None = None) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        max_time=max_time,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_a_trainer_gets_one_clock() -> None:
    one = trainer()
    assert timer_of(one) is timer_of(one)
    assert sum(isinstance(callback, Timer) for callback in one.callbacks) == 1


def test_the_clock_that_limits_a_training_is_the_one_that_is_read() -> None:
    limited = trainer(timedelta(hours=1))
    assert timer_of(limited).time_remaining() == 3600
    assert sum(isinstance(callback, Timer) for callback in limited.callbacks) == 1


def test_a_resumed_training_counts_on() -> None:
    clock = timer_of(trainer())
    clock.load_state_dict({"time_elapsed": {"train": 60.0}})
    assert clock.time_elapsed() == 60
    model = pl.LightningModule()
    clock.on_train_start(trainer(), model)
    clock.on_train_end(trainer(), model)
    assert clock.time_elapsed() == pytest.approx(60, abs=1)
