"""What a recipe is: from a model and the length of a run to an optimiser and its schedule."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rcnn.settings import require
from rcnn.training.announcing import announce


class OptimizerAndSchedule(NamedTuple):
    """What a recipe builds.

    Attributes:
        optimizer: over the parameters that require gradients.
        schedule: of the learning rates, stepped after every step of the optimiser.
    """

    optimizer: Optimizer
    schedule: LRScheduler


@runtime_checkable
class Recipe(Protocol):
    """What the configuration group ``optimizer`` builds."""

    def __call__(
        self, module: nn.Module, total_steps: int | float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """Return the optimiser and the schedule for a run.

        Args:
            module: whose parameters are learned.
            total_steps: optimiser steps of the run; infinite or negative for a run without end.
            images_per_step: images that one optimiser step sees, over all devices and accumulated
                minibatches.
            fused: whether PyTorch's fused kernels may be used. They undo the gradient scaling of
                fp16 themselves, which Lightning refuses together with gradient clipping.
        """


def scaled_lr(lr: float, base_batch: int, batch: int) -> float:
    """Return the rate for ``batch`` images per step if ``lr`` was chosen for ``base_batch``.

    The linear scaling rule (Goyal et al. 2017, section 2.1).
    """
    return lr * batch / base_batch


def announced_lr(lr: float, base_batch: int, batch: int, scale: bool) -> float:
    """Return ``lr``, scaled to the batch if so switched, and say so."""
    if not scale:
        return lr
    scaled = scaled_lr(lr, base_batch, batch)
    announce(f"Learning rate {lr:g} x {batch}/{base_batch} images = {scaled:g}")
    return scaled


def require_rates(lr: float, weight_decay: float, warmup_steps: int, base_batch: int) -> None:
    """Check what all recipes have in common.

    Raises:
        SettingsError: for a value out of range.
    """
    require(lr > 0, "optimizer.lr", lr, "it must be above 0")
    require(weight_decay >= 0, "optimizer.weight_decay", weight_decay, "it must not be negative")
    require(warmup_steps >= 0, "optimizer.warmup_steps", warmup_steps, "it must not be negative")
    require(base_batch >= 1, "optimizer.base_batch", base_batch, "it must be at least 1 image")


def require_fraction(key: str, value: float) -> None:
    """Check that a setting lies in 0 to 1.

    Raises:
        SettingsError: if it does not.
    """
    require(0 <= value <= 1, f"optimizer.{key}", value, "it must lie between 0 and 1")
