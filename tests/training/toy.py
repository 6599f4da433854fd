"""Trainings that take no time: of one weight and one batch norm, and of nothing at all."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from rcnn.data import DetectionBatch
from rcnn.training.progress import batches_done, reopen_loader


@dataclass
class Batch:
    """Two numbers and the names of the images that they represent."""

    values: Tensor
    image_ids: tuple[str, ...]


class Numbers(Dataset[Batch]):
    """Minibatch k holds k + 1 and k + 2, or another pair."""

    def __init__(self, length: int, instead: dict[int, float]) -> None:
        self.length = length
        self.instead = instead

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:
        value = self.instead.get(index, index + 1.0)
        return Batch(torch.tensor([value, value + 1]), (f"image_{2 * index}", f"{2 * index + 1}"))


class Toy(pl.LightningModule):
    """A weight that is drawn towards the data, validated by showing itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.norm = nn.BatchNorm1d(1)
        self.trained_on: list[float] = []
        self.validated: list[float] = []
        self.tested: list[float] = []

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        self.trained_on.append(self.weight.item())
        shifted = self.weight + batch.values
        boxes = shifted.square().mean()
        classes = 0.0 * self.norm(shifted[:, None]).sum()
        self.log("train/loss", boxes)
        losses = {"roi_classes": classes.detach(), "roi_boxes": boxes.detach()}
        return {"loss": boxes + classes, "losses": losses}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated.append(self.weight.item())
        self.log("val/weight", self.weight.detach()[0], batch_size=1)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.tested.append(self.weight.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Recorder(pl.LightningModule):
    """Learns nothing from a detector's data; writes down what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, tuple[str, ...], float]] = []

    def on_train_start(self) -> None:
        reopen_loader(self.trainer)

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        # The first column differs between a picture and its mirror image.
        column = float(batch.images.pixels[..., 0].double().mean())
        self.seen.append((batches_done(self.trainer), batch.image_ids, column))
        return self.weight * 1.0

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Lightning warns of a module without one."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


Batches = Callable[..., DataLoader[Batch]]
"""The fixture ``batches``: a length, and values that replace single ones."""

MakeTrainer = Callable[..., pl.Trainer]
"""The fixture ``trainer``: callbacks, and options of Lightning's trainer."""

TwoProcesses = Callable[[str], list[tuple[int, str]]]
"""The fixture ``two_processes``: a program; exit status and output of each process."""
