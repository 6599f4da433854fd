"""What a recipe is: from a model and the length of a run to an optimiser and its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from rcnn.settings import SettingsError, require
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
        raise ValueError(
            f"{type(module).__name__} has nothing to learn: none of its parameters requires "
            "gradients. Freeze less of it."
        )
    return {name: parameters for name, parameters in groups.items() if parameters}


def can_fuse(module: nn.Module) -> bool:
    """Return whether PyTorch's fused kernels can update what ``module`` learns.

    They update all parameters in one pass over the memory, on a GPU and on a CPU.
    """
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in learned)


def constant(_: int) -> float:
    """Return 1 at every step."""
    return 1.0


def warm_up(step: int, steps: int, factor: float) -> float:
    """Return the factor of a linear rise from ``factor`` at step 0 to 1 at step ``steps``."""
    return 1.0 if step >= steps else factor + (1.0 - factor) * step / steps


def step_decay(
    step: int, *, drops: tuple[int, ...], decay: float, warmup_steps: int, warmup_factor: float
) -> float:
    """Return the factor of a warm-up, multiplied by ``decay`` from each step of ``drops`` on."""
    reached = sum(step >= drop for drop in drops)
    return warm_up(step, warmup_steps, warmup_factor) * math.pow(decay, reached)


def cosine_decay(
    step: int, *, total_steps: int, final: float, warmup_steps: int, warmup_factor: float
) -> float:
    """Return the factor of a warm-up, then half a cosine from 1 down to ``final`` at the end."""
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    half_cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return warm_up(step, warmup_steps, warmup_factor) * (final + (1.0 - final) * half_cosine)


def run_length(total_steps: int | float, key: str) -> int:
    """Return the run's number of steps, at least 1, for a schedule that is spread over it.

    Args:
        total_steps: infinite or negative for a run without end, as Lightning estimates it.
        key: of the setting that needs to know, for the message.

    Raises:
        SettingsError: if the run has no end.
    """
    if math.isinf(total_steps) or total_steps < 0:
        raise SettingsError(
            f"{key} spreads the learning rate over the run, but the run has no end: "
            "set trainer.max_epochs or trainer.max_steps."
        )
    return max(int(total_steps), 1)


def shortened_warm_up(steps: int, total_steps: int | float) -> int:
    """Return the steps of warm-up: at most half of the run, so that the full rate is reached."""
    if total_steps < 0 or 2 * steps <= total_steps:
        return steps
    half = int(total_steps) // 2
    announce(f"Warm-up of {steps} steps cut to {half}, half of the run")
    return half


@dataclass(frozen=True)
class AdamWCosine:
    """AdamW (Loshchilov and Hutter 2019) with a short warm-up and half a cosine.

    Attributes:
        lr: the highest learning rate.
        weight_decay: of the weights; biases and normalisation layers do not decay.
        warmup_steps: steps of linear warm-up; at most half of the run is used.
        warmup_factor: rate of the first step over ``lr``.
        final_lr_fraction: rate at the end of the run over ``lr``.
        scale_lr_to_batch: multiply ``lr`` by images per step over ``base_batch``.
        base_batch: images per step for which ``lr`` was chosen.
    """

    lr: float = 4.5e-4
    weight_decay: float = 0.05
    warmup_steps: int = 50
    warmup_factor: float = 0.01
    final_lr_fraction: float = 0.0
    scale_lr_to_batch: bool = False
    base_batch: int = 2

    def __post_init__(self) -> None:
        require_rates(self.lr, self.weight_decay, self.warmup_steps, self.base_batch)
        require_fraction("warmup_factor", self.warmup_factor)
        require_fraction("final_lr_fraction", self.final_lr_fraction)

    def __call__(
        self, module: nn.Module, total_steps: int | float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """See :class:`~rcnn.training.optim.Recipe`."""
        lr = announced_lr(self.lr, self.base_batch, images_per_step, self.scale_lr_to_batch)
        groups = [
            {
                "name": name,
                "params": parameters,
                "weight_decay": self.weight_decay if name == "weights" else 0.0,
            }
            for name, parameters in parameter_groups(module).items()
        ]
        optimizer = AdamW(groups, lr=lr, fused=fused and can_fuse(module))
        steps = run_length(total_steps, "AdamWCosine")
        factor = partial(
            cosine_decay,
            total_steps=steps,
            final=self.final_lr_fraction,
            warmup_steps=shortened_warm_up(self.warmup_steps, steps),
            warmup_factor=self.warmup_factor,
        )
        return OptimizerAndSchedule(optimizer, LambdaLR(optimizer, factor))


@dataclass(frozen=True)
class PaperSGD:
    """SGD with momentum and a rate that drops late in the run.

    Fast R-CNN, section 2.3: rate 0.001, momentum 0.9, weight decay 0.0005, twice the rate for
    biases, which do not decay here. Faster R-CNN, section 3.1.3: the rate falls to a tenth after
    60k of 80k minibatches. Caffe keeps the rate inside the velocity and PyTorch outside of it, so
    the two differ for some steps after a drop.

    Attributes:
        lr: learning rate of the weights.
        momentum: share of the velocity that is kept.
        weight_decay: of the weights.
        bias_lr_factor: rate of the biases over ``lr``.
        decay_norms: whether scales and shifts of normalisation layers decay, too.
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
        require_rates(self.lr, self.weight_decay, self.warmup_steps, self.base_batch)
        require_fraction("decay", self.decay)
        require_fraction("warmup_factor", self.warmup_factor)
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "it lies in [0, 1)")
        factor = self.bias_lr_factor
        require(factor > 0, "optimizer.bias_lr_factor", factor, "it must be above 0")
        require(
            all(0 < fraction < 1 for fraction in self.milestones),
            "optimizer.milestones",
            self.milestones,
            "they are fractions of the run, each between 0 and 1",
        )

    def __call__(
        self, module: nn.Module, total_steps: int | float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """See :class:`~rcnn.training.optim.Recipe`."""
        lr = announced_lr(self.lr, self.base_batch, images_per_step, self.scale_lr_to_batch)
        norm_decay = self.weight_decay if self.decay_norms else 0.0
        options = {
            "weights": {"lr": lr, "weight_decay": self.weight_decay},
            "biases": {"lr": lr * self.bias_lr_factor, "weight_decay": 0.0},
            "norms": {"lr": lr, "weight_decay": norm_decay},
        }
        groups = [
            {"name": name, "params": parameters, **options[name]}
            for name, parameters in parameter_groups(module).items()
        ]
        optimizer = SGD(groups, lr=lr, momentum=self.momentum, fused=fused and can_fuse(module))
        factor = partial(
            step_decay,
            drops=self._drops(total_steps),
            decay=self.decay,
            warmup_steps=shortened_warm_up(self.warmup_steps, total_steps),
            warmup_factor=self.warmup_factor,
        )
        return OptimizerAndSchedule(optimizer, LambdaLR(optimizer, factor))

    def _drops(self, total_steps: int | float) -> tuple[int, ...]:
        if not self.milestones:
            return ()
        steps = run_length(total_steps, "optimizer.milestones")
        return tuple(round(fraction * steps) for fraction in self.milestones)


@dataclass(frozen=True)
class OptimizerFactory:
    """A recipe around a class of the user's choice, with all but the parameters filled in.

    In YAML both are ``_partial_: true`` nodes. The learned parameters form one group.

    Attributes:
        optimizer: called with the list of parameters.
        scheduler: called with the optimiser; stepped after every optimiser step. Without one the
            rate stays.
        length_argument: the scheduler's argument that takes the run's number of steps, such as
            ``T_max`` of ``CosineAnnealingLR`` or ``total_steps`` of ``OneCycleLR``.
    """

    optimizer: Callable[..., Optimizer]
    scheduler: Callable[..., LRScheduler] | None = None
    length_argument: str | None = None

    def __call__(
        self,
        module: nn.Module,
        total_steps: int | float,
        images_per_step: int,  # noqa: ARG002
        fused: bool = True,  # noqa: ARG002
    ) -> OptimizerAndSchedule:
        """See :class:`~rcnn.training.optim.Recipe`; rate and kernels are as the user chose them.

        Raises:
            SettingsError: for a scheduler that needs a metric.
        """
        groups = parameter_groups(module).values()
        optimizer = self.optimizer([parameter for group in groups for parameter in group])
        scheduler = self.scheduler
        if scheduler is None:
            return OptimizerAndSchedule(optimizer, LambdaLR(optimizer, constant))
        if self.length_argument is not None:
            steps = run_length(total_steps, "optimizer.length_argument")
            scheduler = partial(scheduler, **{self.length_argument: steps})
        schedule = scheduler(optimizer)
        if isinstance(schedule, ReduceLROnPlateau):
            raise SettingsError(
                "optimizer.scheduler=ReduceLROnPlateau is not possible: it needs a metric, and a "
                "schedule here depends on the step alone."
            )
        return OptimizerAndSchedule(optimizer, schedule)
