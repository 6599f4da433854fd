"""A training that takes no time: one weight, one batch norm, losses that can be spoiled."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


@dataclass
class Batch:
    """Two numbers and the names of the images that they stand for."""

    values: Tensor
    image_ids: tuple[str, ...]


class Numbers(Dataset[Batch]):
    """Minibatch k holds k + 1 and k + 2, or whatever takes their place."""

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

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
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
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def batches() -> Callable[..., DataLoader[Batch]]:
    """Makes a loader of minibatches; single values can be replaced."""

    def make(length: int = 4, instead: dict[int, float] | None = None) -> DataLoader[Batch]:
        return DataLoader(Numbers(length, instead or {}), batch_size=None)

    return make


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """Makes quiet trainers on the CPU."""

    def make(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # Lightning and torch 2.15
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no")
        warnings.filterwarnings("ignore", "The number of training batches .* is smaller than")
        defaults: dict[str, Any] = {"max_epochs": 1, "logger": False, "enable_checkpointing": False}
        return pl.Trainer(
            accelerator="cpu",
            devices=1,
            callbacks=list(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            **(defaults | options),
        )

    return make
