"""How far a training has come: its clock, its speed, and what a terminal or a log file shows of it.

The two attributes of Lightning that are not public, and that this package reads, are read in this
file alone: ``Trainer.fit_loop.epoch_loop.batch_progress`` by ``batches_done`` and
``Trainer.fit_loop._data_fetcher`` by ``reopen_loader``. Beside them ``Progress`` overrides
``RichProgressBar._get_train_description``. A test names the version that breaks one of them.
"""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar, Timer
from pytorch_lightning.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    ProcessingSpeedColumn,
)
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

TERMS = ("rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes")
"""Names of the losses in the order of the data flow."""

HEADLINE = ("map", "map_50", "voc07_map", "recall_300")
"""Metrics of a validation that its line shows."""


@rank_zero_only
def rank_zero_info(message: str) -> None:
    """Log a message in the first process, through the logger ``rcnn``.

    Lightning's function of this name logs through Lightning's logger, which a run of this package
    silences.
    """
    logging.getLogger("rcnn").info(message)


def batches_done(trainer: pl.Trainer) -> int:
    """Return the number of minibatches that each process has trained on, resumed ones included.

    All randomness of a step depends on this number. Lightning's epochs do not serve: it opens the
    loader before it names the epoch, and a run of ``max_steps`` that is resumed from the end of an
    epoch counts that epoch twice (seen with Lightning 2.6.6).
    """
    # The declared type of ``total`` is its base class, which lacks ``processed``.
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)


def reopen_loader(trainer: pl.Trainer) -> None:
    """Let the loader of a resumed training start at the minibatch that comes next.

    The optimiser asks for the number of steps, and Lightning opens the loader to count them, before
    it restores how far the training has come.
    """
    fetcher = trainer.fit_loop._data_fetcher
    if batches_done(trainer) and fetcher is not None:
        iter(fetcher)


def timer_of(trainer: pl.Trainer) -> Timer:
    """Return the clock of a trainer that has not begun, which it gets if it has none.

    Its time is part of the checkpoints: a training that goes on from one counts on from there, so
    that in the end ``time_elapsed()`` is the time of the steps that led to the result, with their
    validations. Steps that were lost and taken again count once.
    """
    callbacks = cast(list[pl.Callback], trainer.callbacks)  # type: ignore[attr-defined]
    found = next((one for one in callbacks if isinstance(one, Timer)), None)
    if found is None:
        found = Timer()
        callbacks.append(found)
    return found


class Throughput(pl.Callback):
    """Logs the speed of training and of detecting.

    ``train/images_per_second`` counts all devices together and is logged beside the losses. A value
    covers the steps since the last one, ``trainer.log_every_n_steps`` of them, by the wall clock:
    waiting for data counts; validation, and what follows it until the next minibatch, does not.
    The GPU is never waited for; over a window, at whose end the losses are read, the host cannot
    run ahead far.

    ``test/seconds_per_image`` is what one device needs from pixels in its memory to detections; the
    first minibatch, which warms up, does not count unless it is the only one. Reading images and
    scoring at the end are left out.

    Lightning's ``ThroughputMonitor`` is not used: it synchronises the GPU at every step, takes
    every minibatch for equally large, and sends its figures to the loggers alone, so that neither
    ``metrics.json`` nor another callback sees them.

    Args:
        clock: function that returns seconds from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running_since: float | None = None
        self._seconds = 0.0
        self._images = 0
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier run."""
        self._running_since, self._seconds, self._images = None, 0.0, 0
        self._step = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Start the clock, or start it again after a validation."""
        if self._running_since is None:
            self._running_since = self._clock()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the images; log at the end of a window."""
        self._images += len(batch.image_ids)
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        window = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not stepped or window == 0 or self._step % window != 0:
            return
        self._stop()
        rate = self._images * trainer.world_size / max(self._seconds, 1e-9)
        pl_module.log("train/images_per_second", rate, on_step=True, on_epoch=False)
        self._seconds, self._images = 0.0, 0
        self._running_since = self._clock()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier run."""
        self._running_since, self._seconds, self._images = None, 0.0, 0

    def on_test_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Start the clock."""
        self._running_since = self._clock()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop the clock: the detections have been read, so the device is done."""
        if batch_idx == 1:
            self._seconds, self._images = 0.0, 0
        self._stop()
        self._images += len(batch.image_ids)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the mean."""
        if self._images:
            mean = self._seconds / self._images
            pl_module.log("test/seconds_per_image", mean, sync_dist=True)

    def _stop(self) -> None:
        if self._running_since is not None:
            self._seconds += self._clock() - self._running_since
            self._running_since = None


class Progress(RichProgressBar):
    """Lightning's bar with the losses by name; without a terminal, lines for a log file.

    The bar shows the losses of the last step. They are read from what the module logs, all at once
    and only when the bar is drawn: Lightning would read those that are logged with
    ``prog_bar=True`` at every step.

    Where the output is no terminal, one line is printed for each epoch, and before a validation
    within an epoch, with the mean losses since the last line, images per second over all devices
    without validation, and the time left; and one for each validation, with its headline metrics.

    Args:
        refresh_rate: steps between two updates of the bar; each waits for the device.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=False)
        self.losses = ""
        """The losses of the last step as the bar shows them."""
        self._lines: _Lines | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose between the bar and lines; only the first process shows anything."""
        super().setup(trainer, pl_module, stage)
        console = Console()
        if self.is_enabled and not (console.is_interactive or console.is_jupyter):
            self.disable()
            self._lines = _Lines()

    def configure_columns(self, trainer: pl.Trainer) -> list[ProgressColumn]:
        """Return narrow columns, so that a terminal of 80 characters has room for the losses."""
        return [
            TextColumn("[progress.description]{task.description}"),
            BarColumn(bar_width=10),
            BatchesProcessedColumn(self.theme.batch_progress),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            ProcessingSpeedColumn(self.theme.processing_speed),
            _LossColumn(self),
        ]

    def _get_train_description(self, current_epoch: int) -> str:
        return _epoch_of(self.trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the bar or the clock of the lines."""
        super().on_train_start(trainer, pl_module)
        if self._lines is not None:
            self._lines.start(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Start the clock of a line."""
        if self._lines is not None:
            self._lines.start_batch()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Draw the bar when it is due; Lightning's would read the losses at every step."""
        if self._lines is not None:
            self._lines.add(outputs, len(batch.image_ids))
        done = batch_idx + 1
        last = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if done % self.refresh_rate == 0 or last:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the epoch, unless its validation has done so."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._lines is not None:
            self._lines.print_training(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the steps before the validation."""
        super().on_validation_start(trainer, pl_module)
        if self._lines is not None:
            self._lines.print_training(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the validation."""
        super().on_validation_end(trainer, pl_module)
        if self._lines is not None and not trainer.sanity_checking:
            self._lines.print_validation(trainer)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Read the losses for their own column, and return the other figures of the bar."""
        metrics = dict(super().get_metrics(trainer, pl_module))
        losses = _logged_losses(trainer)
        self.losses = _named(losses)
        for name in ("v_num", *losses):
            metrics.pop(name, None)
        return metrics


class _LossColumn(ProgressColumn):
    """The losses beside the bar of the training."""

    def __init__(self, bar: Progress) -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Task) -> Text:
        return Text(self.bar.losses if task.id == self.bar.train_progress_bar_id else "")


class _Lines:
    """Prints the lines of a training, and keeps what goes into the next one."""

    def __init__(self) -> None:
        self._began = self._since = 0.0
        self._first_step = self._images = self._minibatches = 0
        self._sums: dict[str, Tensor] = {}

    def start(self, trainer: pl.Trainer) -> None:
        """Start the clock of the whole training."""
        self._began, self._first_step = time.monotonic(), trainer.global_step

    def start_batch(self) -> None:
        """Start the clock of the next line at its first minibatch."""
        if not self._images:
            self._since = time.monotonic()

    def add(self, outputs: Any, images: int) -> None:
        """Add a minibatch; its losses stay on the device until a line is printed."""
        self._images += images
        if not outputs:  # the step was skipped
            return
        self._minibatches += 1
        for name, loss in {"loss": outputs["loss"], **outputs.get("losses", {})}.items():
            self._sums[name] = self._sums.get(name, 0) + loss.detach().float()

    def print_training(self, trainer: pl.Trainer) -> None:
        """Print the line of the minibatches since the last one, if there are any."""
        if not self._images:
            return
        now = time.monotonic()
        values = torch.stack([*self._sums.values()]).tolist() if self._sums else []
        means = {name: s / self._minibatches for name, s in zip(self._sums, values, strict=True)}
        rate = self._images * trainer.world_size / max(now - self._since, 1e-9)
        step = f"step {trainer.global_step}"
        words = [_epoch_of(trainer), step, _named(means), f"{rate:.1f} images/s"]
        left = self._seconds_left(trainer, now)
        if left is not None:
            words.append(f"{timedelta(seconds=round(left))} left")
        _print_line(words)
        self._sums = {}
        self._images = self._minibatches = 0

    def print_validation(self, trainer: pl.Trainer) -> None:
        """Print the headline metrics of a validation."""
        logged = trainer.callback_metrics
        names = [name for name in ("loss", *HEADLINE) if f"val/{name}" in logged]
        figures = " ".join(f"{name} {float(logged[f'val/{name}']):.3f}" for name in names)
        of_training = trainer.state.fn == TrainerFn.FITTING
        when = [_epoch_of(trainer), f"step {trainer.global_step}"] if of_training else []
        _print_line(["Validation", *when, figures])

    def _seconds_left(self, trainer: pl.Trainer, now: float) -> float | None:
        """Return the time that the remaining steps take at the mean speed, validations included."""
        done, total = trainer.global_step - self._first_step, trainer.estimated_stepping_batches
        if done == 0 or total < 0 or math.isinf(total):
            return None
        return (now - self._began) / done * (total - trainer.global_step)


def _print_line(words: Sequence[str]) -> None:
    """Print a line at once: a log file is read while the run goes on."""
    sys.stdout.write("  ".join(words) + "\n")
    sys.stdout.flush()


def _epoch_of(trainer: pl.Trainer) -> str:
    """Return the epoch from 1, and the number of epochs unless the length is given in steps."""
    epochs = trainer.max_epochs
    return f"Epoch {trainer.current_epoch + 1}" + (f"/{epochs}" if epochs and epochs > 0 else "")


def _named(losses: Mapping[str, float]) -> str:
    """Return losses as ``loss 0.19 rpn_objectness 0.02 ...``."""
    short = {name.removeprefix("train/").removeprefix("loss_"): v for name, v in losses.items()}
    return " ".join(f"{name} {value:.2f}" for name, value in short.items())


def _logged_losses(trainer: pl.Trainer) -> dict[str, float]:
    """Read the losses that were logged last, under their tags."""
    logged = trainer.callback_metrics
    tags = ["train/loss", *(f"train/loss_{term}" for term in TERMS)]
    found = [tag for tag in tags if tag in logged]
    if not found:
        return {}
    values = torch.stack([logged[tag].float() for tag in found]).tolist()
    return dict(zip(found, values, strict=True))
