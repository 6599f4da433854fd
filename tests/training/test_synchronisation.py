"""Between two logs a training reads nothing from the device."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

import traceback
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger
from torch.overrides import TorchFunctionMode

from rcnn.data import ShapesSource
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.callbacks import EMA
from rcnn.training.progress import Progress, Throughput

READING = {
    *("item", "tolist", "cpu", "numpy", "is_nonzero", "equal", "allclose", "bincount"),
    *("__bool__", "__int__", "__float__", "__index__", "__contains__"),
    *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive"),
}
"""Functions that need the values of a tensor on the host."""


class Reads(TorchFunctionMode):
    """Notes every call that reads a tensor, except where reading is allowed.

    Suppression may read; on a CPU the matching may look whether there is a crowd; loading data is
    the host's own work; and EMA keeps the number of its updates on the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in READING:
            stack = traceback.extract_stack()
            allowed = (
                {"suppress", "best_match"} & {frame.name for frame in stack}
                or any("torch/utils/data" in frame.filename for frame in stack)
                or any("average.n_averaged" in (frame.line or "") for frame in stack)
            )
            if not allowed:
                frames = [one for one in stack if one.filename != __file__][-4:]
                names = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in frames]
                self.found.append(f"{func.__name__} {' > '.join(names)}")
        return func(*args, **(kwargs or {}))


class Watch(pl.Callback):
    """Watches steps 2 to 5, from the start of step 2 to the start of step 6."""

    def __init__(self) -> None:
        self.reads = Reads()
        self.watched = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            self.reads.__enter__()
        elif batch_idx == 5:
            self.reads.__exit__(None, None, None)
            self.watched = trainer.global_step - 1


def reads_of_training(module: DetectionModule, folder: Path, every: int) -> list[str]:
    """Train for six steps; return what was read in four of them.

    :class:`FiniteLoss` is not among the callbacks: on a CPU it looks at each loss.

    Args:
        module: detector to train.
        folder: folder of the logger.
        every: number of steps from one log to the next, and from one drawing of the bar to the
            next.
    """
    watch = Watch()
    callbacks = [EMA(), Throughput(), LearningRateMonitor("step"), Progress(every), watch]
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=callbacks,
        logger=CSVLogger(folder),
        log_every_n_steps=every,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    source = ShapesSource(train=12, val=2, test=2, size=64)
    trainer.fit(module, DetectionDataModule(source, LoaderSettings(workers=0)))
    assert watch.watched == 4
    return watch.reads.found


@pytest.fixture(params=[True, False], ids=["bar", "lines"])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the output is a terminal, which shows the bar; a log file gets lines."""
    monkeypatch.setenv("TTY_INTERACTIVE", "1" if request.param else "0")
    monkeypatch.setenv("FORCE_COLOR", "1" if request.param else "")
    return bool(request.param)


@pytest.mark.usefixtures("terminal")
def test_between_two_logs_a_training_reads_nothing(module: DetectionModule, tmp_path: Path) -> None:
    assert reads_of_training(module, tmp_path, every=50) == []


def test_what_is_logged_and_drawn_is_read_when_it_is_due(
    terminal: bool, module: DetectionModule, tmp_path: Path
) -> None:
    reads = reads_of_training(module, tmp_path, every=2)
    drawn = [one for one in reads if "progress.py" in one]
    assert len(drawn) == (2 if terminal else 0)  # after steps 2 and 4, all losses at once
    assert all(one.startswith("tolist ") for one in drawn)
    logged = [one for one in reads if one not in drawn]
    assert logged
    assert all("convert_tensors_to_scalars" in one for one in logged)
