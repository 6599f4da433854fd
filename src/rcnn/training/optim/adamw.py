"""AdamW for quick runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from rcnn.training.optim.parameters import can_fuse, parameter_groups
from rcnn.training.optim.recipe import (
    OptimizerAndSchedule,
    announced_lr,
    require_fraction,
    require_rates,
)
from rcnn.training.optim.schedules import cosine_decay, run_length, shortened_warm_up


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
