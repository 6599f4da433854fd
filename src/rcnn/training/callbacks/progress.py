"""The progress bar: epoch, time left, speed and the losses."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

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
