"""An exponential moving average of the weights, which is validated, saved and tested.

Lightning's own ``WeightAveraging`` (since 2.6) is not used: with it ``test(ckpt_path="best")``
loads the raw weights instead of the validated ones, and every step waits for the GPU.
"""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from rcnn.settings import require
from rcnn.training.announcing import announce

CHECKPOINT_KEY = "weight_average"
"""Where a checkpoint holds the raw weights, from which training goes on."""


class EMA(pl.Callback):
    """Trains one set of weights and uses their running average for everything else.

    After every optimiser step ``average = d * average + (1 - d) * weights`` with
    ``d = min(decay, (1 + n) / (10 + n))`` after n steps, so that a short run is not dominated by
    its first weights. Floating-point buffers (running statistics of batch norms) are averaged like
    the parameters.

    From the start of a validation to the next training batch, and after the end of training, the
    module holds the average. So ``state_dict`` of a checkpoint is what was validated, and whoever
    loads it needs not know of this callback; to go on with training exactly, the checkpoint
    holds the raw weights, too.

    A checkpoint with ``save_weights_only=True`` that is written between validations holds the raw
    weights only.

    Args:
        decay: share of the average that is kept at each step.
    """

    def __init__(self, decay: float = 0.999) -> None:
        require(0 < decay < 1, "callbacks.average.decay", decay, "it lies between 0 and 1")
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] = {}  # empty while the module holds the raw weights itself
        self._trained: list[Tensor] = []  # of the module, in the average's order; looked up once
        self._loaded: dict[str, Any] = {}
        self._updates = 0
        self._step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget an earlier run; whatever the module holds now counts."""
        self._average, self._raw, self._loaded, self._updates = {}, {}, {}, 0

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what a resumed training needs; a test keeps to the average in ``state_dict``."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if CHECKPOINT_KEY not in checkpoint:
            announce("The checkpoint holds no average of weights: it starts from its weights")
            return
        self._loaded = {**checkpoint[CHECKPOINT_KEY], "average": checkpoint["state_dict"]}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the average from the weights, or go on with the checkpoint's."""
        weights = _weights(pl_module)
        self._average = {name: _precise(tensor.clone()) for name, tensor in weights.items()}
        if self._loaded:
            _copy(self._loaded["average"], into=self._average)
            _copy(self._loaded["raw"], into=weights)
            self._updates = self._loaded["updates"]
            self._loaded = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note how far a resumed run has come, and where the weights lie from here on."""
        self._step = trainer.global_step
        self._trained = list(_weights(pl_module).values())

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Give the module its raw weights back."""
        if self._raw:
            _copy(self._raw, into=_weights(pl_module))
            self._raw = {}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Update the average if the optimiser has stepped."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        averages = list(self._average.values())
        pairs = zip(self._trained, averages, strict=True)
        torch._foreach_lerp_(averages, [tensor.to(a.dtype) for tensor, a in pairs], 1.0 - decay)
        self._updates += 1

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average into the module."""
        self._show_average(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module."""
        self._show_average(pl_module)
        self._trained = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the module's weights, and the raw weights beside it."""
        if not self._average:
            return
        weights = checkpoint["state_dict"]
        raw = self._raw or {name: weights[name] for name in self._average}
        checkpoint[CHECKPOINT_KEY] = {"raw": raw, "updates": self._updates}
        checkpoint["state_dict"] = {**weights, **self._average}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the device, as the module does."""
        self._average = {name: tensor.cpu() for name, tensor in self._average.items()}
        self._raw = {name: tensor.cpu() for name, tensor in self._raw.items()}

    def _show_average(self, module: pl.LightningModule) -> None:
        if self._average and not self._raw:
            weights = _weights(module)
            self._raw = {name: tensor.clone() for name, tensor in weights.items()}
            _copy(self._average, into=weights)


def _weights(module: pl.LightningModule) -> dict[str, Tensor]:
    """Return the floating-point entries of the state, sharing the module's memory."""
    state = module.state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def _precise(tensor: Tensor) -> Tensor:
    """Return at least float32: an average in half precision would not move."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _copy(tensors: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, target in into.items():
        target.copy_(tensors[name])
