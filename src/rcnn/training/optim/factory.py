"""Any optimiser and scheduler by their classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from rcnn.settings import SettingsError
from rcnn.training.optim.parameters import parameter_groups
from rcnn.training.optim.recipe import OptimizerAndSchedule
from rcnn.training.optim.schedules import constant, run_length


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
