"""Recipes: from a model and the length of a run to an optimiser and its schedule.

``AdamWCosine`` and ``PaperSGD`` are the two of this package; ``OptimizerFactory`` takes any
optimiser and scheduler of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, ReduceLROnPlateau

from rcnn.model.backbones import Backbone
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

    Scales and shifts of normalisation layers are ``norms``; elsewhere a parameter with a name that
    ends in ``bias`` is one of the ``biases``. Empty groups are left out; a shared parameter counts
    once.

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
    backbone_lr_scale: float = 1.0,
) -> Optimizer:
    """Return an optimiser with a group each for weights, biases and norms.

    With another rate for the backbone its parameters are in groups ``backbone_*`` of their own.

    Args:
        module: model to train.
        optimizer: optimiser's class with all arguments but the parameters filled in; its weight
            decay is that of the weights. Biases do not decay.
        bias_lr_factor: learning rate of the biases over that of the weights.
        decay_norms: whether scales and shifts of normalisation layers decay.
        backbone_lr_scale: learning rates of the backbone, without its pyramid, over the others.
    """
    decaying = ("weights", "norms") if decay_norms else ("weights",)
    backbones = [part for part in module.modules() if isinstance(part, Backbone)]
    slower = {p for backbone in backbones for p in backbone.pretrained_parameters()}
    if backbone_lr_scale == 1.0:
        slower.clear()
    made = optimizer(
        [
            {"name": prefix + name, "params": chosen}
            | ({} if name in decaying else {"weight_decay": 0.0})
            for name, parameters in parameter_groups(module).items()
            for prefix, is_slower in (("", False), ("backbone_", True))
            if (chosen := [one for one in parameters if (one in slower) == is_slower])
        ]
    )
    for group in made.param_groups:
        if group["name"].endswith("biases"):
            group["lr"] *= bias_lr_factor
        if group["name"].startswith("backbone_"):
            group["lr"] *= backbone_lr_scale
    return made


# --- schedules --------------------------------------------------------------------------------


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


# --- recipes ----------------------------------------------------------------------------------


@settings
class WarmUpRecipe:
    """What ``AdamWCosine`` and ``PaperSGD`` have in common: a rate that rises linearly at first.

    Their schedules are functions of the step alone: unlike torch's schedulers, which multiply the
    last rate, they are exact at every step, and a resumed run that was made longer is spread over
    its new length.

    Attributes:
        lr: highest learning rate of the weights.
        weight_decay: decay of the weights; biases do not decay.
        warmup_steps: steps of warm-up; at most half of the run is used.
        warmup_factor: rate of the first step over ``lr``.
        scale_lr_to_batch: whether ``lr`` is multiplied by images per step over ``base_batch``, the
            linear scaling rule (Goyal et al. 2017, section 2.1).
        base_batch: images per step that ``lr`` was chosen for.
        backbone_lr_scale: rates of the backbone, without its pyramid, over those of the layers that
            no pretrained weights cover; ``backbone.frozen_stages`` stops its first stages.
    """

    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    warmup_steps: NonNegativeInt
    warmup_factor: Fraction
    scale_lr_to_batch: bool = False
    base_batch: PositiveInt = 2
    backbone_lr_scale: PositiveFloat = 1.0

    def _arguments(self, module: nn.Module, images_per_step: int, fused: bool) -> dict[str, Any]:
        """Return the arguments that both optimisers take."""
        lr = self.lr
        if self.scale_lr_to_batch:
            lr = lr * images_per_step / self.base_batch
            scaled = f"{self.lr:g} x {images_per_step}/{self.base_batch} images = {lr:g}"
            rank_zero_info(f"Learning rate {scaled}")
        devices = {parameter.device.type for parameter in module.parameters()}
        fused = fused and devices <= {"cpu", "cuda"}  # the devices with fused kernels
        return {"lr": lr, "weight_decay": self.weight_decay, "fused": fused}

    def _warmup_within(self, total_steps: int | float) -> int:
        """Return the steps of warm-up, so few that a run reaches its full rate."""
        if total_steps < 0 or 2 * self.warmup_steps <= total_steps:
            return self.warmup_steps
        half = int(total_steps) // 2
        rank_zero_info(f"Warm-up of {self.warmup_steps} steps cut to {half}, half of the run")
        return half

    def _rise(self, step: int, steps: int) -> float:
        """Return the factor of the warm-up, 1 from step ``steps`` on."""
        first = self.warmup_factor
        return 1.0 if step >= steps else first + (1.0 - first) * step / steps


@settings
class AdamWCosine(WarmUpRecipe):
    """AdamW (Loshchilov and Hutter 2019) with a short warm-up and half a cosine.

    See ``WarmUpRecipe`` for the other settings.

    Attributes:
        final_lr_fraction: rate at the end of the run over ``lr``.
    """

    lr: PositiveFloat = 4.5e-4
    weight_decay: NonNegativeFloat = 0.05
    warmup_steps: NonNegativeInt = 50
    warmup_factor: Fraction = 0.01
    final_lr_fraction: Fraction = 0.0

    def __call__(
        self, module: nn.Module, total_steps: int | float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """See ``Recipe``."""
        adamw = partial(AdamW, **self._arguments(module, images_per_step, fused))
        optimizer = grouped_optimizer(module, adamw, backbone_lr_scale=self.backbone_lr_scale)
        steps = run_length(total_steps, "AdamWCosine")
        warmup, final = self._warmup_within(steps), self.final_lr_fraction

        def factor(step: int) -> float:
            progress = (step - warmup) / (steps - warmup)
            half_cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
            return self._rise(step, warmup) * (final + (1.0 - final) * half_cosine)

        return OptimizerAndSchedule(optimizer, LambdaLR(optimizer, factor))


@settings
class PaperSGD(WarmUpRecipe):
    """SGD with momentum and a rate that drops late in the run.

    Fast R-CNN, section 2.3: rate 0.001, momentum 0.9, weight decay 0.0005, twice the rate for
    biases, which do not decay here. Faster R-CNN, section 3.1.3: the rate falls to a tenth after
    60k of 80k minibatches. Caffe keeps the rate inside the velocity and PyTorch outside of it, so
    the two differ for some steps after a drop. See ``WarmUpRecipe`` for the other settings.

    Attributes:
        momentum: share of the velocity that is kept.
        bias_lr_factor: rate of the biases over ``lr``.
        decay_norms: whether scales and shifts of normalisation layers decay, too.
        milestones: times at which the rate drops, as fractions of the run.
        decay: factor of each drop.
    """

    lr: PositiveFloat = 0.001
    weight_decay: NonNegativeFloat = 0.0005
    warmup_steps: NonNegativeInt = 0
    warmup_factor: Fraction = 0.001
    momentum: FractionBelowOne = 0.9
    bias_lr_factor: PositiveFloat = 2.0
    decay_norms: bool = False
    milestones: tuple[BetweenZeroAndOne, ...] = (0.75,)
    decay: Fraction = 0.1

    def __call__(
        self, module: nn.Module, total_steps: int | float, images_per_step: int, fused: bool = True
    ) -> OptimizerAndSchedule:
        """See ``Recipe``."""
        arguments = self._arguments(module, images_per_step, fused)
        sgd = partial(SGD, momentum=self.momentum, **arguments)
        optimizer = grouped_optimizer(
            module,
            sgd,
            bias_lr_factor=self.bias_lr_factor,
            decay_norms=self.decay_norms,
            backbone_lr_scale=self.backbone_lr_scale,
        )
        steps = run_length(total_steps, "optimizer.milestones") if self.milestones else 0
        drops = [round(fraction * steps) for fraction in self.milestones]
        warmup = self._warmup_within(total_steps)

        def factor(step: int) -> float:
            reached = sum(step >= drop for drop in drops)
            return self._rise(step, warmup) * math.pow(self.decay, reached)

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
            optimizer = self.optimizer([*chain.from_iterable(parameter_groups(module).values())])
        if self.scheduler is None:
            return OptimizerAndSchedule(optimizer, ConstantLR(optimizer, factor=1.0))
        length = {}
        if self.length_argument is not None:
            length = {self.length_argument: run_length(total_steps, "optimizer.length_argument")}
        schedule = self.scheduler(optimizer, **length)
        if isinstance(schedule, ReduceLROnPlateau):
            raise SettingsError(
                "optimizer.scheduler=ReduceLROnPlateau is not possible: it needs a metric, and a "
                "schedule here depends on the step alone."
            )
        return OptimizerAndSchedule(optimizer, schedule)
