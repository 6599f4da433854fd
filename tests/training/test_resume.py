"""A resumed training sees the same minibatches, in the same order, as one that never stopped."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from rcnn.data import DetectionBatch, ShapesSource
from rcnn.training import DetectionDataModule, LoaderSettings
from rcnn.training.module import batches_done

BATCHES = 3  # of an epoch


class Recorder(pl.LightningModule):
    """Learns nothing; writes down what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, tuple[str, ...], float]] = []

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> torch.Tensor:
        # The first column tells whether a picture was mirrored.
        column = float(batch.images.pixels[..., 0].float().mean())
        self.seen.append((batches_done(self.trainer), batch.image_ids, column))
        return self.weight * 1.0

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in (
            "Total length of .* is zero",
            ".*does not have many workers.*",
            "Checkpoint directory .* is not empty",
            ".*your dataloader is not resumable.*",
        ):
            warnings.filterwarnings("ignore", message)
        yield


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("val", [0, 2])
@pytest.mark.parametrize("length", ["epochs", "steps"])
@pytest.mark.parametrize("stop", [3, 4])  # at the end of an epoch, and inside the next one
def test_it_goes_on_with_what_comes_next(
    tmp_path: Path, workers: int, val: int, length: str, stop: int
) -> None:
    def fit(steps: int, ckpt_path: Path | None = None) -> list[Any]:
        module = Recorder()
        source = ShapesSource(train=2 * BATCHES, val=val, test=0, size=64)
        keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        if stop == BATCHES:
            keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=-1 if length == "steps" else -(-steps // BATCHES),
            max_steps=steps if length == "steps" else -1,
            callbacks=[keep],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        data = DetectionDataModule(source, LoaderSettings(workers=workers))
        trainer.fit(module, data, ckpt_path=ckpt_path)
        return module.seen

    whole = fit(3 * BATCHES)
    assert [number for number, *_ in whole] == list(range(3 * BATCHES))
    checkpoint = tmp_path / f"step={stop}.ckpt"
    assert fit(3 * BATCHES, checkpoint) == whole[stop:]
