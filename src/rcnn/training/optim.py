"""Optimisers with their learning rate schedules, as recipes that a configuration builds.

A recipe holds plain numbers. Called with a model and the length of the run, it returns an optimiser
and a schedule that is stepped after every optimiser step::

    recipe = PaperSGD(lr=0.001, milestones=(0.75,))
    built = recipe(module, total_steps=80_000, images_per_step=2)

The schedule is a pure function of the number of steps, so a resumed run goes on exactly where it
stopped. Its shape comes from the present recipe and run length, not from the checkpoint: a run that
is resumed with more epochs spreads its schedule over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from rcnn.settings import SettingsError, require

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm2d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class OptimizerAndSchedule:
    """What a recipe builds.

    Attributes:
        optimizer: over the parameters that require gradients.
        schedule: of the learning rates.
        interval: when the schedule is stepped, in Lightning's words.
    """

    optimizer: Optimizer
    schedule: LRScheduler
    interval: Literal["step", "epoch"] = "step"


class Recipe(Protocol):
    """What the configuration group ``optimizer`` builds."""

    def __call__(
        self, module: nn.Module, total_steps: float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """Return the optimiser and the schedule for a run.

        Args:
            module: whose parameters are learned.
            total_steps: optimiser steps of the run; infinite or negative for a run without end.
            images_per_step: images that one optimiser step sees, over all devices and accumulated
                minibatches.
            fused: allow PyTorch's fused kernels, which Lightning refuses for fp16 with clipping.
        """


@dataclass(frozen=True)
class PaperSGD:
    """SGD with momentum and a rate that drops late, as both papers train.

    Fast R-CNN, section 2.3: rate 0.001, momentum 0.9, weight decay 0.0005; biases learn at twice
    the rate, and by the authors' code without decay. The rate drops to a tenth after three quarters
    of the run (60k of 80k minibatches of Faster R-CNN). Caffe multiplies the rate into the velocity,
    PyTorch multiplies the velocity by the rate; they differ for a few steps after a drop.

    Attributes:
        lr: learning rate of the weights.
        momentum: share of the velocity that is kept.
        weight_decay: of the weights.
        bias_lr_factor: rate of the biases over ``lr``.
        decay_norms: whether scales and shifts of normalisation layers decay.
        milestones: when the rate drops, as fractions of the run.
        decay: factor of each drop.
        warmup_steps: steps of linear warm-up; at most half of the run is used.
        warmup_factor: rate of the first step over ``lr``.
        scale_lr_to_batch: multiply ``lr`` by images per step over ``base_batch``.
        base_batch: images per step for which ``lr`` was chosen.
    """

    lr: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 0.0005
    bias_lr_factor: float = 2.0
    decay_norms: bool = False
    milestones: Sequence[float] = (0.75,)
    decay: float = 0.1
    warmup_steps: int = 0
    warmup_factor: float = 0.001
    scale_lr_to_batch: bool = False
    base_batch: int = 2

    def __post_init__(self) -> None:
        _require_common(self.lr, self.weight_decay, self.warmup_steps, self.base_batch)
        key, factors = "optimizer.", (self.warmup_factor, self.decay)
        require(0 <= self.momentum < 1, key + "momentum", self.momentum, "it must be in [0, 1)")
        require(self.bias_lr_factor > 0, key + "bias_lr_factor", self.bias_lr_factor, "above 0")
        require(all(0 <= f <= 1 for f in factors), key + "warmup_factor, decay", factors, "0 to 1")
        inside = all(0 < fraction < 1 for fraction in self.milestones)
        allowed = "they are fractions of the run, between 0 and 1"
        require(inside, key + "milestones", self.milestones, allowed)

    def __call__(
        self, module: nn.Module, total_steps: float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """See :class:`Recipe`."""
        lr = _rate(self.lr, self.base_batch, images_per_step, self.scale_lr_to_batch)
        decays = {"weights": self.weight_decay, "norms": self.weight_decay * self.decay_norms}
        groups = [
            {
                "name": name,
                "params": parameters,
                "lr": lr * (self.bias_lr_factor if name == "biases" else 1.0),
                "weight_decay": decays.get(name, 0.0),
            }
            for name, parameters in parameter_groups(module).items()
        ]
        optimizer = SGD(groups, lr=lr, momentum=self.momentum, fused=fused and _can_fuse(module))
        steps = _length(total_steps, "optimizer.milestones") if self.milestones else total_steps
        factor = partial(
            step_decay,
            drops=tuple(round(fraction * steps) for fraction in self.milestones),
            decay=self.decay,
            warmup_steps=_warmup(self.warmup_steps, steps),
            warmup_factor=self.warmup_factor,
        )
        return OptimizerAndSchedule(optimizer, LambdaLR(optimizer, factor))


@dataclass(frozen=True)
class AdamWCosine:
    """AdamW with a short warm-up and half a cosine, for quick runs and transformer backbones.

    Attributes:
        lr: the highest learning rate.
        weight_decay: of the weights; biases and normalisation layers do not decay.
        warmup_steps: steps of linear warm-up; at most half of the run is used.
        warmup_factor: rate of the first step over ``lr``.
        final_lr_fraction: rate at the end of the run over ``lr``.
        scale_lr_to_batch: multiply ``lr`` by images per step over ``base_batch``.
        base_batch: images per step for which ``lr`` was chosen.
    """

    lr: float = 3e-4
    weight_decay: float = 0.05
    warmup_steps: int = 100
    warmup_factor: float = 0.01
    final_lr_fraction: float = 0.0
    scale_lr_to_batch: bool = False
    base_batch: int = 2

    def __post_init__(self) -> None:
        _require_common(self.lr, self.weight_decay, self.warmup_steps, self.base_batch)
        factors = (self.warmup_factor, self.final_lr_fraction)
        key = "optimizer.warmup_factor, final_lr_fraction"
        require(all(0 <= factor <= 1 for factor in factors), key, factors, "0 to 1")

    def __call__(
        self, module: nn.Module, total_steps: float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """See :class:`Recipe`."""
        lr = _rate(self.lr, self.base_batch, images_per_step, self.scale_lr_to_batch)
        groups = [
            {
                "name": name,
                "params": parameters,
                "weight_decay": self.weight_decay if name == "weights" else 0.0,
            }
            for name, parameters in parameter_groups(module).items()
        ]
        optimizer = AdamW(groups, lr=lr, fused=fused and _can_fuse(module))
        steps = _length(total_steps, "AdamWCosine")
        factor = partial(
            cosine_decay,
            total_steps=steps,
            final=self.final_lr_fraction,
            warmup_steps=_warmup(self.warmup_steps, steps),
            warmup_factor=self.warmup_factor,
        )
        return OptimizerAndSchedule(optimizer, LambdaLR(optimizer, factor))


@dataclass(frozen=True)
class OptimizerFactory:
    """Any optimiser and scheduler by their classes, with everything but the parameters filled in.

    In YAML both are ``_partial_: true`` nodes. The parameters form one group.

    Attributes:
        optimizer: called with the list of parameters.
        scheduler: called with the optimiser; without one the rate stays.
        interval: when the scheduler is stepped.
        length_argument: the scheduler's argument that takes the run's number of steps, such as
            ``T_max`` of ``CosineAnnealingLR`` or ``total_steps`` of ``OneCycleLR``.
    """

    optimizer: Callable[..., Optimizer]
    scheduler: Callable[..., LRScheduler] | None = None
    interval: Literal["step", "epoch"] = "step"
    length_argument: str | None = None

    def __call__(
        self,
        module: nn.Module,
        total_steps: float,
        images_per_step: int,  # noqa: ARG002
        fused: bool = True,  # noqa: ARG002
    ) -> OptimizerAndSchedule:
        """See :class:`Recipe`; the rate and the kernels are as the user's class has them."""
        groups = parameter_groups(module).values()
        optimizer = self.optimizer([parameter for group in groups for parameter in group])
        if self.scheduler is None:
            return OptimizerAndSchedule(optimizer, LambdaLR(optimizer, _constant))
        scheduler = self.scheduler
        if self.length_argument is not None:
            length = _length(total_steps, "optimizer.length_argument")
            scheduler = partial(scheduler, **{self.length_argument: length})
        schedule = scheduler(optimizer)
        if isinstance(schedule, ReduceLROnPlateau):
            raise SettingsError(
                "optimizer.scheduler=ReduceLROnPlateau is not possible: it needs a metric, and a "
                "schedule here depends on the step alone. Choose one that decays by the step."
            )
        return OptimizerAndSchedule(optimizer, schedule, self.interval)


def parameter_groups(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Sort the parameters that require gradients into ``weights``, ``biases`` and ``norms``.

    Scales and shifts of normalisation layers are ``norms``; a parameter whose name ends in ``bias``
    elsewhere is one of the ``biases``. Empty groups are left out; a shared parameter counts once.

    Raises:
        ValueError: if every parameter is frozen.
    """
    groups: dict[str, list[nn.Parameter]] = {"weights": [], "biases": [], "norms": []}
    seen: set[nn.Parameter] = set()
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            other = "biases" if name.endswith("bias") else "weights"
            groups["norms" if isinstance(part, NORMS) else other].append(parameter)
    if not seen:
        raise ValueError(f"{type(module).__name__} has nothing to learn: all of it is frozen.")
    return {name: parameters for name, parameters in groups.items() if parameters}


def scaled_lr(lr: float, base_batch: int, batch: int) -> float:
    """Return the rate for ``batch`` images per step if ``lr`` was chosen for ``base_batch``.

    Linear scaling (Goyal et al. 2017, section 2.1).
    """
    return lr * batch / base_batch


def warm_up(step: int, steps: int, factor: float) -> float:
    """Return the rate's factor at ``step``, which rises from ``factor`` to 1 in ``steps`` steps."""
    return 1.0 if step >= steps else factor + (1.0 - factor) * step / steps


def step_decay(
    step: int, *, drops: tuple[int, ...], decay: float, warmup_steps: int, warmup_factor: float
) -> float:
    """Return the factor after a warm-up and ``decay`` for each of ``drops`` that was reached."""
    reached = sum(step >= drop for drop in drops)
    return warm_up(step, warmup_steps, warmup_factor) * math.pow(decay, reached)


def cosine_decay(
    step: int, *, total_steps: int, final: float, warmup_steps: int, warmup_factor: float
) -> float:
    """Return the factor of a warm-up followed by half a cosine from 1 down to ``final``."""
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    half_cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return warm_up(step, warmup_steps, warmup_factor) * (final + (1.0 - final) * half_cosine)


def _constant(_: int) -> float:
    return 1.0


def _rate(lr: float, base_batch: int, batch: int, scale: bool) -> float:
    if not scale:
        return lr
    scaled = scaled_lr(lr, base_batch, batch)
    rank_zero_info(f"Learning rate {lr:g} x {batch}/{base_batch} images = {scaled:g}")
    return scaled


def _length(total_steps: float, key: str) -> int:
    """Return the run's number of steps, at least 1, for a schedule that depends on it."""
    if math.isinf(total_steps) or total_steps < 0:
        raise SettingsError(
            f"{key} spreads the schedule over the run, but the run has no end: "
            "set trainer.max_epochs or trainer.max_steps."
        )
    return max(int(total_steps), 1)


def _warmup(steps: int, total_steps: float) -> int:
    """Return the steps of warm-up, at most half of the run, so that the full rate is reached."""
    half = max(int(min(total_steps, 2 * steps)), 0) // 2 if total_steps >= 0 else steps
    if half < steps:
        rank_zero_info(f"Warm-up cut from {steps} to {half} steps: half of the run")
    return min(half, steps)


def _can_fuse(module: nn.Module) -> bool:
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in learned)


def _require_common(lr: float, weight_decay: float, warmup_steps: int, base_batch: int) -> None:
    require(lr > 0, "optimizer.lr", lr, "it must be above 0")
    require(weight_decay >= 0, "optimizer.weight_decay", weight_decay, "it must not be negative")
    require(warmup_steps >= 0, "optimizer.warmup_steps", warmup_steps, "it must not be negative")
    require(base_batch >= 1, "optimizer.base_batch", base_batch, "it must be at least 1 image")
