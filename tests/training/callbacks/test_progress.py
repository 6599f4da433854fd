"""What stands beside the bar, and when it is read."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from rcnn.training.callbacks import Progress


def shown(metrics: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    trainer: Any = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    logged = {name: torch.tensor(value) for name, value in metrics.items()}
    monkeypatch.setattr(type(trainer), "callback_metrics", property(lambda _: logged))
    return Progress().get_metrics(trainer, pl.LightningModule())


def test_the_total_stands_as_the_sum_of_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {
        "train/loss": 1.0,
        "train/loss_roi_classes": 0.4,
        "train/loss_rpn_objectness": 0.1,
        "train/loss_rpn_boxes": 0.2,
        "train/loss_roi_boxes": 0.3,
        "val/map": 0.5,
    }
    assert shown(metrics, monkeypatch) == {"loss": "1.00 = 0.10+0.20+0.40+0.30"}


def test_a_total_without_terms_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown({"train/loss": 0.5}, monkeypatch) == {"loss": "0.50"}
    assert shown({}, monkeypatch) == {}


class Counting(Progress):
    """Notes after which step it looked at the losses."""

    def __init__(self, refresh_rate: int) -> None:
        super().__init__(refresh_rate)
        self.looked: list[int] = []

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        if "loss" in metrics and trainer.global_step not in self.looked:
            self.looked.append(trainer.global_step)
        return metrics


@pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_losses_are_read_when_the_bar_is_drawn_and_at_the_end(toy, batches) -> None:
    bar = Counting(refresh_rate=3)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=[bar],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(toy, batches(8))
    assert bar.looked == [3, 6, 8]
