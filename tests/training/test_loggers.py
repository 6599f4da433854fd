"""A logger that fails warns once, and the training goes on."""

import logging
import sys
import types
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from rcnn.training.loggers import finish, tolerant
from tests.training.toy import Batches, MakeTrainer, Toy


class Failing(CSVLogger):
    """Fails at its third call, and counts the calls."""

    calls = 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:  # noqa: ARG002
        self.calls += 1
        if self.calls == 3:
            raise ConnectionError("the server is gone")


def test_a_logger_that_fails_on_the_way_is_left_out_from_then_on(
    toy: Toy,
    batches: Batches,
    trainer: MakeTrainer,
    tmp_path: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = tolerant("mine", lambda: Failing(tmp_path))
    assert isinstance(logger, Failing)
    run = trainer(logger=logger, max_epochs=4, log_every_n_steps=1)
    run.fit(toy, batches(), batches(1))
    assert run.current_epoch == 4
    assert logger.calls == 3
    (record,) = [record for record in caplog.records if record.name == "rcnn"]
    assert record.levelno == logging.WARNING
    assert "logger=mine" in record.getMessage()
    assert "ConnectionError: the server is gone" in record.getMessage()


def test_a_logger_that_cannot_be_made_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Logger:
        raise ModuleNotFoundError("pip install it")

    assert tolerant("mine", make) is None
    assert "pip install it" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_failure(error: type[BaseException]) -> None:
    def make() -> Logger:
        raise error

    with pytest.raises(error):
        tolerant("mine", make)


def test_the_run_of_weights_and_biases_ends_with_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    finished: list[bool] = []
    stand_in = types.SimpleNamespace(finish=lambda: finished.append(True))
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    finish([CSVLogger(tmp_path)])
    assert not finished
    finish([CSVLogger(tmp_path), WandbLogger.__new__(WandbLogger)])
    assert finished == [True]
