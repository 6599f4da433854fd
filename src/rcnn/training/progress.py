"""How far a training has come: its clock, its speed, and what a terminal or a log file shows of it.

Attributes of Lightning that are not public are used in this file and by ``EMA`` alone:
``Trainer.fit_loop.epoch_loop.batch_progress`` by ``batches_done``,
``Trainer.fit_loop._data_fetcher`` by ``reopen_loader``, ``RichProgressBar._get_train_description``
by ``Progress``. A test names the version that breaks one of them.
"""

# ruff: noqa: ARG002, T201 (the arguments of the hooks are Lightning's; lines are printed)

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar, Timer
from pytorch_lightning.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    ProcessingSpeedColumn,
    RichProgressBarTheme,
)
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

HEADLINE = ("map", "map_50", "voc07_map", "recall_300")
"""Metrics of a validation that its line shows."""


@rank_zero_only
def rank_zero_info(message: str) -> None:
    """Log a message in the first process, through the logger ``rcnn``.

    Lightning's function of this name logs through Lightning's logger, which a run of this package
    silences.
    """
    logging.getLogger("rcnn").info(message)


def batches_done(trainer: Trainer) -> int:
    """Return the number of minibatches that each process has trained on, resumed ones included.

    All randomness of a step depends on this number. Lightning's epochs do not serve: it opens the
    loader before it names the epoch, and a run of ``max_steps`` that is resumed from the end of an
    epoch counts that epoch twice (seen with Lightning 2.6.6).
    """
    # The declared type of ``total`` is its base class, which lacks ``processed``.
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)


def reopen_loader(trainer: Trainer) -> None:
    """Let the loader of a resumed training start at the minibatch that comes next.

    The optimiser asks for the number of steps, and Lightning opens the loader to count them, before
    it restores how far the training has come.
    """
    fetcher = trainer.fit_loop._data_fetcher
    if batches_done(trainer) and fetcher is not None:
        iter(fetcher)


def timer_of(trainer: Trainer) -> Timer:
    """Return the clock of a trainer that has not begun, which it gets if it has none.

    Its time is part of the checkpoints: a training that goes on from one counts on from there, so
    that in the end ``time_elapsed()`` is the time of the steps that led to the result, with their
    validations. Steps that were lost and taken again count once.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = next((one for one in callbacks if isinstance(one, Timer)), None)
    if found is None:
        found = Timer()
        callbacks.append(found)
    return found


class _Stopwatch:
    """Counts images and the seconds that they took, and can be stopped in between.

    Args:
        clock: function that returns seconds from any start.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.images = 0
        self._clock = clock
        self._seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Start the clock, unless it runs."""
        if self._since is None:
            self._since = self._clock()

    def stop(self) -> None:
        if self._since is not None:
            self._seconds += self._clock() - self._since
            self._since = None

    def reset(self) -> float:
        """Stop at 0 and return the images a second until now."""
        self.stop()
        rate = self.images / max(self._seconds, 1e-9)
        self.images, self._seconds = 0, 0.0
        return rate


class Throughput(Callback):
    """Logs the speed of training and of detecting.

    ``train/images_per_second`` counts all devices together and is logged beside the losses. A value
    covers the steps since the last one, ``trainer.log_every_n_steps`` of them, by the wall clock:
    waiting for data counts; validation, and what follows it until the next minibatch, does not.
    The GPU is never waited for; the host cannot run ahead far, because the losses are read at the
    end of each window.

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
        self._watch = _Stopwatch(clock)
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run."""
        self._watch.reset()
        self._step = trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock, or start it again after a validation."""
        self._watch.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images; log at the end of a window."""
        self._watch.images += len(batch.image_ids)
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        window = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if stepped and window > 0 and self._step % window == 0:
            rate = self._watch.reset() * trainer.world_size
            pl_module.log("train/images_per_second", rate, on_step=True, on_epoch=False)
            self._watch.start()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._watch.stop()

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Start the clock, from 0 until the first minibatch is over."""
        if batch_idx <= 1:
            self._watch.reset()
        self._watch.start()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop the clock: the detections have been read, so the device is done."""
        self._watch.stop()
        self._watch.images += len(batch.image_ids)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the mean."""
        if self._watch.images:
            pl_module.log("test/seconds_per_image", 1 / self._watch.reset(), sync_dist=True)


class Progress(RichProgressBar):
    """Lightning's bar with the losses by name; without a terminal, ``ProgressLines`` instead.

    The losses are those of the last step that the module has logged. They are read all at once,
    and only when the bar is drawn: Lightning would read those that are logged with
    ``prog_bar=True`` at every step.

    Args:
        refresh_rate: steps between two updates of the bar; each waits for the device.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        theme = RichProgressBarTheme(metrics_format=".2f")
        super().__init__(refresh_rate=refresh_rate, leave=False, theme=theme)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose between the bar and lines; only the first process shows anything."""
        super().setup(trainer, pl_module, stage)
        console = Console()
        if self.is_enabled and not (console.is_interactive or console.is_jupyter):
            self.disable()
            trainer.callbacks.append(ProgressLines())  # type: ignore[attr-defined]

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Return narrow columns, so that a terminal of 80 characters has room for the losses."""
        return [
            TextColumn("[progress.description]{task.description}"),
            BarColumn(bar_width=10),
            BatchesProcessedColumn(self.theme.batch_progress),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            ProcessingSpeedColumn(self.theme.processing_speed),
        ]

    def _get_train_description(self, current_epoch: int) -> str:
        return _epoch_of(self.trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the bar when it is due; Lightning's would read the losses at every step."""
        last = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if last or (batch_idx + 1) % self.refresh_rate == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the losses beside what is logged for the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        logged = trainer.callback_metrics
        tags = [tag for tag in logged if tag.startswith("train/loss")]
        values = torch.stack([logged[tag].float() for tag in tags]).tolist() if tags else []
        names = [tag.removeprefix("train/").removeprefix("loss_") for tag in tags]
        return metrics | dict(zip(names, values, strict=True))


class ProgressLines(Callback):
    """Prints lines for a log file, which is read while the run goes on.

    One line is printed for each epoch, and before a validation within an epoch, with the mean
    losses since the last line, images per second over all devices without validation, and the time
    left; and one for each validation, with its headline metrics.
    """

    def __init__(self) -> None:
        self._watch = _Stopwatch(time.monotonic)
        self._began, self._first_step = 0.0, 0
        self._minibatches = 0
        self._sums: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the whole training."""
        self._began, self._first_step = time.monotonic(), trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of a line."""
        self._watch.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a minibatch; its losses stay on the device until a line is printed."""
        self._watch.images += len(batch.image_ids)
        if not outputs:  # the step was skipped
            return
        self._minibatches += 1
        for name, loss in {"loss": outputs["loss"], **outputs.get("losses", {})}.items():
            self._sums[name] = self._sums.get(name, 0) + loss.detach().float()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the epoch, unless its validation has done so."""
        self._print_training(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the steps before the validation."""
        self._print_training(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the validation."""
        if trainer.sanity_checking:
            return
        logged = trainer.callback_metrics
        names = [name for name in ("loss", *HEADLINE) if f"val/{name}" in logged]
        figures = " ".join(f"{name} {float(logged[f'val/{name}']):.3f}" for name in names)
        of_training = trainer.state.fn == TrainerFn.FITTING
        when = [_epoch_of(trainer), f"step {trainer.global_step}"] if of_training else []
        print("Validation", *when, figures, sep="  ", flush=True)

    def _print_training(self, trainer: Trainer) -> None:
        """Print the line of the minibatches since the last one, if there are any."""
        if not self._watch.images:
            return
        rate = self._watch.reset() * trainer.world_size
        sums = torch.stack([*self._sums.values()]).tolist() if self._sums else []
        means = zip(self._sums, (one / self._minibatches for one in sums), strict=True)
        losses = " ".join(f"{name} {mean:.2f}" for name, mean in means)
        words = [_epoch_of(trainer), f"step {trainer.global_step}", losses, f"{rate:.1f} images/s"]
        done, total = trainer.global_step - self._first_step, trainer.estimated_stepping_batches
        if done > 0 and 0 <= total < math.inf:
            # At the mean speed until now, validations included.
            left = (time.monotonic() - self._began) / done * (total - trainer.global_step)
            words.append(f"{timedelta(seconds=round(left))} left")
        print(*words, sep="  ", flush=True)
        self._sums, self._minibatches = {}, 0


def _epoch_of(trainer: Trainer) -> str:
    """Return the epoch from 1, and the number of epochs unless the length is given in steps."""
    epochs = trainer.max_epochs
    return f"Epoch {trainer.current_epoch + 1}" + (f"/{epochs}" if epochs and epochs > 0 else "")
