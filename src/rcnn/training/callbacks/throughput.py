"""How many images a training run sees in a second, and how long a test takes for one."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl


class Throughput(pl.Callback):
    """Logs the speed of training and of detecting.

    ``train/images_per_second`` counts all devices together and stands beside the losses.

    A value covers the steps since the one before, ``trainer.log_every_n_steps`` of them, by the
    wall clock: waiting for data counts, validation and what follows it until the next batch do
    not. The GPU is never waited for; over a window, and with the losses being read at its end, the
    host cannot run ahead far.

    ``test/seconds_per_image`` is what one device needs from pixels in its memory to detections; the
    first minibatch, which warms up, does not count unless it is the only one. Reading images and
    scoring at the end are left out.

    Args:
        clock: seconds, from any start.
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
