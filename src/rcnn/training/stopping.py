"""Callbacks that end a training early: it makes no progress, or a search has better runs."""

from __future__ import annotations

import sys
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning import callbacks
from pytorch_lightning.trainer.states import TrainerFn

from rcnn.settings import SettingsError, require
from rcnn.training.progress import rank_zero_info


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's early stopping after validations, which does nothing without a patience.

    A training that is resumed has the patience of its own config, not that of the checkpoint.

    Args:
        monitor: validation metric.
        mode: whether the metric should rise or fall.
        patience: validations without a better value after which the training stops; None for all.
        min_delta: change of the metric that counts as better.
    """

    def __init__(
        self,
        monitor: str | None,
        mode: Literal["max", "min"] = "max",
        patience: int | None = None,
        min_delta: float = 0.0,
    ) -> None:
        where = "callbacks.early_stopping"
        require(patience is None or patience > 0, f"{where}.patience", patience, "it is above 0")
        if patience is not None and monitor is None:
            raise SettingsError(
                f"{where}.patience={patience} is not possible: monitor=null. Name a metric of the "
                "validation split, such as monitor=val/map."
            )
        super().__init__(
            str(monitor), min_delta, patience or sys.maxsize, mode=mode, strict=patience is not None
        )
        # After each validation, also where there are several in an epoch.
        self._check_on_train_epoch_end = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take everything but the patience from a checkpoint."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the metric, and say why the training stops."""
        super().on_validation_end(trainer, pl_module)
        if trainer.should_stop and self.stopping_reason_message:
            rank_zero_info(f"Early stopping: {self.stopping_reason_message}")


class Pruning(pl.Callback):
    """Reports each validation to an Optuna trial, and stops the run if the trial is pruned.

    The trial is found in its storage, so that the run may be in another process than the search.
    A run is pruned if its best value so far is worse than the median of the others at the same
    validation; never at the first one.

    Args:
        monitor: validation metric.
        storage: URL of the study's storage.
        study: name of the study.
        trial: id of the trial in the storage.
        startup_trials: number of finished trials before which none is pruned.
    """

    def __init__(
        self, monitor: str, storage: str, study: str, trial: int, startup_trials: int
    ) -> None:
        self.monitor = monitor
        self.storage = storage
        self.study = study
        self.trial = trial
        self.startup_trials = startup_trials
        self._validations = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Report the metric; the first process decides for all."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        pruned = trainer.is_global_zero and self._report(
            float(trainer.callback_metrics[self.monitor])
        )
        trainer.should_stop |= trainer.strategy.broadcast(pruned)

    def _report(self, value: float) -> bool:
        import optuna

        pruner = optuna.pruners.MedianPruner(self.startup_trials, n_warmup_steps=1)
        study = optuna.load_study(study_name=self.study, storage=self.storage, pruner=pruner)
        trial = optuna.Trial(study, self.trial)
        trial.report(value, step=self._validations)
        self._validations += 1
        pruned = bool(trial.should_prune())
        if pruned:
            trial.set_user_attr("pruned", True)
            rank_zero_info(f"Pruned: with {self.monitor} {value:.4g} it is worse than most")
        return pruned
