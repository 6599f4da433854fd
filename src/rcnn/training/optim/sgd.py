"""The optimiser of the papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from rcnn.settings import require
from rcnn.training.optim.parameters import can_fuse, parameter_groups
from rcnn.training.optim.recipe import (
    OptimizerAndSchedule,
    announced_lr,
    require_fraction,
    require_rates,
)
from rcnn.training.optim.schedules import run_length, shortened_warm_up, step_decay


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
