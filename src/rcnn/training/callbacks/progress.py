"""The progress bar: epoch, time left, speed and the losses."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    ProcessingSpeedColumn,
)
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn

TERMS = ("rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes")
TOTAL = "train/loss"


class Progress(RichProgressBar):
    """Lightning's bar, with the total loss as the sum of its terms.

    The terms stand in the order of the data flow: objectness and boxes of the RPN, classes and
    boxes of the RoIs. They are read from what the module logs, all at once and only when the bar is
    drawn: Lightning would read those that are logged with ``prog_bar=True`` at every step.

    Args:
        refresh_rate: steps between two updates; each waits for the device.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=False)

    def configure_columns(self, trainer: pl.Trainer) -> list[ProgressColumn]:  # noqa: ARG002
        """Return narrow columns, so that a terminal of 80 has room for the losses."""
        return [
            TextColumn("[progress.description]{task.description}"),
            BarColumn(bar_width=10),
            BatchesProcessedColumn(self.theme.batch_progress),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            ProcessingSpeedColumn(self.theme.processing_speed),
        ]

    def _get_train_description(self, current_epoch: int) -> str:
        """Count epochs from 1, and none where the length is given in steps."""
        epochs = self.trainer.max_epochs
        return f"Epoch {current_epoch + 1}" + (f"/{epochs}" if epochs and epochs > 0 else "")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Draw the bar when it is due; Lightning's would read the losses at every step."""
        done = batch_idx + 1
        if done % self.refresh_rate == 0 or done == self.total_train_batches:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the figures beside the bar."""
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        losses = _losses(trainer)
        for name in ("v_num", *losses):
            metrics.pop(name, None)
        total = losses.pop(TOTAL, None)
        if total is not None:
            shown = "+".join(f"{term:.2f}" for term in losses.values())
            metrics["loss"] = f"{total:.2f} = {shown}" if shown else f"{total:.2f}"
        return metrics


def _losses(trainer: pl.Trainer) -> dict[str, float]:
    """Read the losses that were logged last."""
    logged = trainer.callback_metrics
    names = [name for name in (TOTAL, *(f"{TOTAL}_{term}" for term in TERMS)) if name in logged]
    if not names:
        return {}
    values = torch.stack([logged[name].float() for name in names]).tolist()
    return dict(zip(names, values, strict=True))
