"""Recipes: from a model and the length of a run to an optimiser and its schedule.

``AdamWCosine`` and ``PaperSGD`` are the two of this package; ``OptimizerFactory`` takes any
optimiser and scheduler of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from rcnn.settings import Fraction, FractionBelowOne, SettingsError, settings
from rcnn.training.progress import rank_zero_info

BetweenZeroAndOne = Annotated[float, Field(gt=0, lt=1)]
"""A number in 0..1, neither 0 nor 1."""


class OptimizerAndSchedule(NamedTuple):
    """The product of a recipe.

    Attributes:
        optimizer: optimiser of the parameters that require gradients.
        schedule: schedule of the learning rates, stepped after every step of the optimiser.
    """

    optimizer: Optimizer
    schedule: LRScheduler


@runtime_checkable
class Recipe(Protocol):
    """A factory of an optimiser, as the configuration group ``optimizer`` builds it."""

    def __call__(
        self, module: nn.Module, total_steps: int | float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """Return the optimiser and the schedule for a run.

        Args:
            module: model to train.
            total_steps: optimiser steps of the run; infinite or negative for a run without end.
            images_per_step: images that one optimiser step sees, over all devices and accumulated
                minibatches.
            fused: whether PyTorch's fused kernels may be used. They undo the gradient scaling of
                fp16 themselves, which Lightning refuses together with gradient clipping.
        """


# --- parameters -------------------------------------------------------------------------------

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
    """Return the parameters that require gradients, as ``weights``, ``biases`` and ``norms``.

    Scales and shifts of normalisation layers are ``norms``; a parameter whose name ends in ``bias``
    elsewhere is one of the ``biases``. Empty groups are left out; a shared parameter counts once.

    Raises:
        ValueError: every parameter is frozen.
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


def grouped_optimizer(
    module: nn.Module,
    optimizer: Callable[..., Optimizer],
    *,
    bias_lr_factor: float = 1.0,
    decay_norms: bool = False,
) -> Optimizer:
    """Return an optimiser with a group each for weights, biases and norms.

    Args:
        module: model to train.
        optimizer: optimiser's class with all arguments but the parameters filled in; its weight
            decay is that of the weights. Biases do not decay.
        bias_lr_factor: learning rate of the biases over that of the weights.
        decay_norms: whether scales and shifts of normalisation layers decay.
    """
    decaying = ("weights", "norms") if decay_norms else ("weights",)
    made = optimizer(
        [
            {
                "name": name,
                "params": parameters,
                **({} if name in decaying else {"weight_decay": 0.0}),
            }
            for name, parameters in parameter_groups(module).items()
        ]
    )
    for group in made.param_groups:
        if group["name"] == "biases":
            group["lr"] *= bias_lr_factor
    return made


def can_fuse(module: nn.Module) -> bool:
    """Return whether PyTorch's fused kernels can update what ``module`` learns.

    They update all parameters in one pass over the memory, on a GPU and on a CPU.
    """
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in learned)


# --- schedules --------------------------------------------------------------------------------
# Functions of the step alone: unlike torch's schedulers, which multiply the last rate, they are
# exact at every step, and a resumed run that was made longer is spread over its new length.


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
        total_steps: optimiser steps; infinite or negative for a run without end, as Lightning
            estimates it.
        key: setting that needs the length, for the message.

    Raises:
        SettingsError: the run has no end.
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
    rank_zero_info(f"Warm-up of {steps} steps cut to {half}, half of the run")
    return half


def batch_lr(lr: float, base_batch: int, batch: int, scale: bool) -> float:
    """Return ``lr``, or its value for ``batch`` images per step if it was chosen for another batch.

    The linear scaling rule (Goyal et al. 2017, section 2.1).

    Args:
        lr: learning rate for ``base_batch`` images per step.
        base_batch: images per step that ``lr`` was chosen for.
        batch: images per step of the run.
        scale: whether the rule is applied, and the result logged.
    """
    if not scale:
        return lr
    scaled = lr * batch / base_batch
    rank_zero_info(f"Learning rate {lr:g} x {batch}/{base_batch} images = {scaled:g}")
    return scaled


# --- recipes ----------------------------------------------------------------------------------


@settings
class AdamWCosine:
    """AdamW (Loshchilov and Hutter 2019) with a short warm-up and half a cosine.

    Attributes:
        lr: highest learning rate.
        weight_decay: decay of the weights; biases and normalisation layers do not decay.
        warmup_steps: steps of linear warm-up; at most half of the run is used.
        warmup_factor: rate of the first step over ``lr``.
        final_lr_fraction: rate at the end of the run over ``lr``.
        scale_lr_to_batch: whether ``lr`` is multiplied by images per step over ``base_batch``.
        base_batch: images per step that ``lr`` was chosen for.
    """

    lr: PositiveFloat = 4.5e-4
    weight_decay: NonNegativeFloat = 0.05
    warmup_steps: NonNegativeInt = 50
    warmup_factor: Fraction = 0.01
    final_lr_fraction: Fraction = 0.0
    scale_lr_to_batch: bool = False
    base_batch: PositiveInt = 2

    def __call__(
        self, module: nn.Module, total_steps: int | float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """See ``Recipe``."""
        lr = batch_lr(self.lr, self.base_batch, images_per_step, self.scale_lr_to_batch)
        fused = fused and can_fuse(module)
        adamw = partial(AdamW, lr=lr, weight_decay=self.weight_decay, fused=fused)
        optimizer = grouped_optimizer(module, adamw)
        steps = run_length(total_steps, "AdamWCosine")
        factor = partial(
            cosine_decay,
            total_steps=steps,
            final=self.final_lr_fraction,
            warmup_steps=shortened_warm_up(self.warmup_steps, steps),
            warmup_factor=self.warmup_factor,
        )
        return OptimizerAndSchedule(optimizer, LambdaLR(optimizer, factor))


@settings
class PaperSGD:
    """SGD with momentum and a rate that drops late in the run.

    Fast R-CNN, section 2.3: rate 0.001, momentum 0.9, weight decay 0.0005, twice the rate for
    biases, which do not decay here. Faster R-CNN, section 3.1.3: the rate falls to a tenth after
    60k of 80k minibatches. Caffe keeps the rate inside the velocity and PyTorch outside of it, so
    the two differ for some steps after a drop.

    Attributes:
        lr: learning rate of the weights.
        momentum: share of the velocity that is kept.
        weight_decay: decay of the weights.
        bias_lr_factor: rate of the biases over ``lr``.
        decay_norms: whether scales and shifts of normalisation layers decay, too.
        milestones: times at which the rate drops, as fractions of the run.
        decay: factor of each drop.
        warmup_steps: steps of linear warm-up; at most half of the run is used.
        warmup_factor: rate of the first step over ``lr``.
        scale_lr_to_batch: whether ``lr`` is multiplied by images per step over ``base_batch``.
        base_batch: images per step that ``lr`` was chosen for.
    """

    lr: PositiveFloat = 0.001
    momentum: FractionBelowOne = 0.9
    weight_decay: NonNegativeFloat = 0.0005
    bias_lr_factor: PositiveFloat = 2.0
    decay_norms: bool = False
    milestones: tuple[BetweenZeroAndOne, ...] = (0.75,)
    decay: Fraction = 0.1
    warmup_steps: NonNegativeInt = 0
    warmup_factor: Fraction = 0.001
    scale_lr_to_batch: bool = False
    base_batch: PositiveInt = 2

    def __call__(
        self, module: nn.Module, total_steps: int | float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """See ``Recipe``."""
        lr = batch_lr(self.lr, self.base_batch, images_per_step, self.scale_lr_to_batch)
        fused, decay = fused and can_fuse(module), self.weight_decay
        sgd = partial(SGD, lr=lr, momentum=self.momentum, weight_decay=decay, fused=fused)
        optimizer = grouped_optimizer(
            module, sgd, bias_lr_factor=self.bias_lr_factor, decay_norms=self.decay_norms
        )
        steps = run_length(total_steps, "optimizer.milestones") if self.milestones else 0
        factor = partial(
            step_decay,
            drops=tuple(round(fraction * steps) for fraction in self.milestones),
            decay=self.decay,
            warmup_steps=shortened_warm_up(self.warmup_steps, total_steps),
            warmup_factor=self.warmup_factor,
        )
        return OptimizerAndSchedule(optimizer, LambdaLR(optimizer, factor))


@settings
class OptimizerFactory:
    """A recipe from any optimiser and scheduler, with all but the parameters filled in.

    In YAML both are ``_partial_: true`` nodes.

    Attributes:
        optimizer: callable that takes the parameters.
        scheduler: callable that takes the optimiser; its product is stepped after every optimiser
            step. Without one the rate stays.
        length_argument: scheduler's argument that takes the run's number of steps, such as
            ``T_max`` of ``CosineAnnealingLR`` or ``total_steps`` of ``OneCycleLR``.
        paper_groups: biases learn at twice the rate and do not decay, nor do normalisation layers
            (Fast R-CNN, section 2.3); otherwise all parameters form one group.
    """

    optimizer: Callable[..., Optimizer]
    scheduler: Callable[..., LRScheduler] | None = None
    length_argument: str | None = None
    paper_groups: bool = False

    def __call__(
        self,
        module: nn.Module,
        total_steps: int | float,
        images_per_step: int,  # noqa: ARG002
        fused: bool = True,  # noqa: ARG002
    ) -> OptimizerAndSchedule:
        """See ``Recipe``; rate and kernels are as the user chose them.

        Raises:
            SettingsError: the scheduler needs a metric.
        """
        if self.paper_groups:
            optimizer = grouped_optimizer(module, self.optimizer, bias_lr_factor=2.0)
        else:
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
