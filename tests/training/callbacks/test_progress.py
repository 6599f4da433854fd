"""What stands beside the bar."""

from typing import Any

import pytest
import pytorch_lightning as pl

from rcnn.training.callbacks import Progress


def shown(metrics: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    trainer: Any = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    monkeypatch.setattr(
        type(trainer), "progress_bar_metrics", property(lambda _: metrics), raising=True
    )
    return Progress().get_metrics(trainer, pl.LightningModule())


def test_the_total_stands_as_the_sum_of_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {
        "train/loss": 1.0,
        "train/loss_roi_classes": 0.4,
        "train/loss_rpn_objectness": 0.1,
        "train/loss_rpn_boxes": 0.2,
        "train/loss_roi_boxes": 0.3,
    }
    assert shown(metrics, monkeypatch) == {"loss": "1.00 = 0.10+0.20+0.40+0.30"}


def test_a_total_without_terms_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown({"train/loss": 0.5}, monkeypatch) == {"loss": "0.50"}
    assert shown({}, monkeypatch) == {}
