"""Stop a run whose loss is no number, and say which images did it."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

HISTORY = 5
"""How many totals before the failure a message shows."""


class NonFiniteLossError(FloatingPointError):
    """A loss was infinite or not a number."""


@dataclass(frozen=True)
class _Step:
    """What is kept of a minibatch until its losses are looked at."""

    number: int
    lr: float
    image_ids: tuple[str, ...]
    names: tuple[str, ...]
    losses: Tensor


class FiniteLoss(pl.Callback):
    """Raises when a loss is infinite or not a number, and keeps such weights out of checkpoints.

    The error names the step, the learning rate, the losses concerned and the images of the
    minibatch. Reading a loss makes the host wait for a GPU, so there the losses of a window are
    read together: at its end, before a validation and before a checkpoint is written. On a CPU each
    step is looked at. With several processes all stop with the error of the earliest step.

    ``training_step`` returns the total as ``loss`` and may return the terms as ``losses``, by name;
    the batch has ``image_ids``.

    Args:
        window: steps whose losses are read at once on a GPU.
    """

    def __init__(self, window: int = 50) -> None:
        self.window = window
        self._steps: list[_Step] = []
        self._before: deque[float] = deque(maxlen=HISTORY)
        self._lr = 0.0
        self._number = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier run."""
        self._steps.clear()
        self._before.clear()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Note the learning rate, which has changed when the minibatch is over."""
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]
        self._number = trainer.global_step + 1

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the losses; read them at the end of a window."""
        if not outputs:
            return  # the step was skipped
        terms: Mapping[str, Tensor] = {**outputs.get("losses", {}), "loss": outputs["loss"]}
        # Stacking copies them: a compiled step may write the next losses to the same place.
        losses = torch.stack([term.detach().float() for term in terms.values()])
        ids = tuple(batch.image_ids)
        self._steps.append(_Step(self._number, self._lr, ids, tuple(terms), losses))
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if on_cpu or len(self._steps) >= self.window:
            self._check_all_processes(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not validate weights that are no numbers."""
        self._check_all_processes(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the rest of the window before the epoch's checkpoint is written."""
        self._check_all_processes(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to write weights that are no numbers; nothing is on the disk yet."""
        message = self._message()
        if message is not None:
            raise NonFiniteLossError(message[1])

    def _check_all_processes(self, trainer: pl.Trainer) -> None:
        if not self._steps:
            return
        message = self._message()
        if trainer.world_size > 1:
            # The weights of all processes are spoiled together, but one of them saw the images.
            found: list[tuple[int, str] | None] = [None] * trainer.world_size
            if trainer.strategy.reduce_boolean_decision(message is not None, all=False):
                torch.distributed.all_gather_object(found, message)
            message = min((one for one in found if one is not None), default=None)
        if message is not None:
            raise NonFiniteLossError(message[1])

    def _message(self) -> tuple[int, str] | None:
        """Read the window; return the first step with a loss that is no number, and what to say.

        A window without one is emptied.
        """
        if not self._steps:
            return None
        totals: list[float] = []
        losses = torch.stack([step.losses for step in self._steps]).tolist()
        for step, values in zip(self._steps, losses, strict=True):
            named = dict(zip(step.names, values, strict=True))
            if not all(map(math.isfinite, values)):
                return step.number, _describe(step, named, [*self._before, *totals][-HISTORY:])
            totals.append(named["loss"])
        self._before.extend(totals)
        self._steps.clear()
        return None


def _describe(step: _Step, losses: Mapping[str, float], before: list[float]) -> str:
    bad = ", ".join(f"{name} is {loss}" for name, loss in losses.items() if not math.isfinite(loss))
    history = ", ".join(f"{loss:.4g}" for loss in before) or "none, it is the first"
    return (
        f"Step {step.number}, learning rate {step.lr:g}: {bad}. "
        f"Images of the minibatch: {', '.join(step.image_ids)}. Losses before: {history}. "
        "Losses that grow towards the end point to a learning rate that is too high (optimizer.lr, "
        "optimizer.warmup_steps, trainer.gradient_clip_val); a sudden one points to the "
        "annotations of these images (rcnn check-data)."
    )
