"""The progress bar: epoch, time left, speed and the losses."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    ProcessingSpeedColumn,
)
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn

TERMS = ("rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes")


class Progress(RichProgressBar):
    """Lightning's bar, with the total loss as the sum of its terms.

    The terms stand in the order of the data flow: objectness and boxes of the RPN, classes and
    boxes of the RoIs.

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

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the figures beside the bar."""
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        total = metrics.pop("train/loss", None)
        terms = [metrics.pop(f"train/loss_{name}", None) for name in TERMS]
        if total is not None:
            shown = "+".join(f"{term:.2f}" for term in terms if term is not None)
            metrics["loss"] = f"{total:.2f} = {shown}" if shown else f"{total:.2f}"
        return metrics
