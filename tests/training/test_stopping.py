"""Trainings that end early: without progress, or pruned by a search."""

from pathlib import Path

import optuna
import pytest

from rcnn.settings import SettingsError
from rcnn.training.stopping import EarlyStopping, Pruning
from tests.training.toy import Batch, Batches, MakeTrainer, Toy


class Falling(Toy):
    """A toy whose metric falls from validation to validation."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        self.validated.append(-float(len(self.validated)))
        self.log("val/weight", self.validated[-1], batch_size=1)


@pytest.fixture
def toy() -> Falling:
    return Falling()


class TestEarlyStopping:
    @pytest.mark.parametrize(
        ("mode", "patience", "epochs"),
        [("max", 1, 2), ("max", 2, 3), ("min", 1, 5), ("max", None, 5)],
    )
    def test_a_training_stops_after_so_many_validations_without_a_better_value(
        self,
        mode: str,
        patience: int | None,
        epochs: int,
        toy: Toy,
        batches: Batches,
        trainer: MakeTrainer,
    ) -> None:
        stopping = EarlyStopping("val/weight", mode, patience)  # type: ignore[arg-type]
        run = trainer(stopping, max_epochs=5, num_sanity_val_steps=1)
        run.fit(toy, batches(), batches(1))
        assert run.current_epoch == epochs
        assert run.global_step == epochs * len(batches())

    def test_several_validations_in_an_epoch_count_each(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        run = trainer(EarlyStopping("val/weight", "max", 1), max_epochs=5, val_check_interval=1)
        run.fit(toy, batches(), batches(1))
        assert run.global_step == 2

    def test_a_change_below_the_smallest_that_counts_is_none(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        run = trainer(EarlyStopping("val/weight", "min", 1, min_delta=1e6), max_epochs=5)
        run.fit(toy, batches(), batches(1))
        assert run.current_epoch == 2

    def test_without_patience_no_metric_is_needed(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        run = trainer(EarlyStopping(None), max_epochs=2)
        run.fit(toy, batches(), batches(1))
        assert run.current_epoch == 2

    def test_a_resumed_training_has_its_own_patience(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer, tmp_path: Path
    ) -> None:
        first = trainer(EarlyStopping("val/weight", "max", 1), max_epochs=5)
        first.fit(toy, batches(), batches(1))
        first.save_checkpoint(tmp_path / "last.ckpt")
        second = trainer(EarlyStopping("val/weight", "max", 3), max_epochs=9)
        second.fit(Falling(), batches(), batches(1), ckpt_path=tmp_path / "last.ckpt")
        assert (first.current_epoch, second.current_epoch) == (2, 4)

    @pytest.mark.parametrize(
        ("monitor", "patience", "message"),
        [
            (None, 3, r"early_stopping\.patience=3.*monitor"),
            ("val/map", 0, r"early_stopping\.patience=0.*above 0"),
        ],
    )
    def test_a_patience_needs_a_metric_and_is_positive(
        self, monitor: str | None, patience: int, message: str
    ) -> None:
        with pytest.raises(SettingsError, match=message):
            EarlyStopping(monitor, patience=patience)


class TestPruning:
    @pytest.mark.parametrize(("others", "epochs"), [(-100.0, 4), (100.0, 2)])
    def test_a_run_worse_than_the_others_stops_after_its_second_validation(
        self,
        others: float,
        epochs: int,
        toy: Toy,
        batches: Batches,
        trainer: MakeTrainer,
        tmp_path: Path,
    ) -> None:
        storage = f"sqlite:///{tmp_path / 'search.db'}"
        study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
        for _ in range(3):
            earlier = study.ask()
            for step in range(4):
                earlier.report(others, step)
            study.tell(earlier, others)
        trial = study.ask()
        callback = Pruning("val/weight", storage, "s", trial._trial_id, startup_trials=3)
        run = trainer(callback, max_epochs=4, num_sanity_val_steps=1)
        run.fit(toy, batches(), batches(1))
        assert run.current_epoch == epochs
        stored = study.trials[trial.number]
        assert list(stored.intermediate_values.values()) == pytest.approx(toy.validated[1:])
        assert stored.user_attrs.get("pruned", False) == (epochs == 2)

    def test_the_first_trials_are_never_pruned(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer, tmp_path: Path
    ) -> None:
        storage = f"sqlite:///{tmp_path / 'search.db'}"
        study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
        earlier = study.ask()
        earlier.report(100.0, 1)
        study.tell(earlier, 100.0)
        callback = Pruning("val/weight", storage, "s", study.ask()._trial_id, startup_trials=2)
        run = trainer(callback, max_epochs=4)
        run.fit(toy, batches(), batches(1))
        assert run.current_epoch == 4
