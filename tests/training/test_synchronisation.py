"""Between two logs a training reads nothing from the device."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

import traceback
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger
from torch.overrides import TorchFunctionMode

from rcnn.data import ShapesSource
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.callbacks import EMA
from rcnn.training.progress import Throughput

READING = {
    *("item", "tolist", "cpu", "numpy", "is_nonzero", "equal", "allclose", "bincount"),
    *("__bool__", "__int__", "__float__", "__index__", "__contains__"),
    *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive"),
}
"""What needs the values of a tensor on the host."""


class Reads(TorchFunctionMode):
    """Notes every call that reads a tensor, but for what may.

    Suppression may; on a CPU the matching may look whether there is a crowd; and loading data is
    the host's own work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in READING:
            stack = traceback.extract_stack()
            allowed = {"suppress", "best_match"} & {frame.name for frame in stack}
            if not allowed and not any("torch/utils/data" in one.filename for one in stack):
                frames = [one for one in stack if one.filename != __file__][-4:]
                names = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in frames]
                self.found.append(f"{func.__name__} {' > '.join(names)}")
        return func(*args, **(kwargs or {}))


class Watch(pl.Callback):
    """Watches the steps 2 to 5, from the start of the first to the start of the one behind them."""

    def __init__(self) -> None:
        self.reads = Reads()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            self.reads.__enter__()
        elif batch_idx == 5:
            self.reads.__exit__(None, None, None)


def reads_of_training(module: DetectionModule, folder: Path, log_every: int) -> list[str]:
    """Train for six steps and return what was read in four of them."""
    watch = Watch()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=6,
        callbacks=[EMA(), Throughput(), LearningRateMonitor("step"), watch],
        logger=CSVLogger(folder),
        log_every_n_steps=log_every,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    source = ShapesSource(train=12, val=2, test=2, size=64)
    trainer.fit(module, DetectionDataModule(source, LoaderSettings(workers=0)))
    return watch.reads.found


def test_between_two_logs_a_training_reads_nothing(module: DetectionModule, tmp_path: Path) -> None:
    assert reads_of_training(module, tmp_path, log_every=50) == []


def test_what_is_logged_is_read_when_it_is_due(module: DetectionModule, tmp_path: Path) -> None:
    assert reads_of_training(module, tmp_path, log_every=2)
