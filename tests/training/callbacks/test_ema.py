"""The average of the weights: what it is, who sees it, and what a checkpoint holds of it."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

import copy
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from rcnn.settings import SettingsError
from rcnn.training.callbacks import EMA


def averaged(weights: list[float], decay: float) -> float:
    """The running average of a weight, by the definition."""
    average = weights[0]
    for n, weight in enumerate(weights[1:]):
        share = min(decay, (1 + n) / (10 + n))
        average = share * average + (1 - share) * weight
    return average


class Watcher(pl.Callback):
    """Writes down the weight at the end of validations and after every step."""

    def __init__(self) -> None:
        self.after_validation: list[float] = []
        self.after_step: list[float] = [0.0]

    def on_validation_end(self, trainer, pl_module) -> None:
        self.after_validation.append(pl_module.weight.item())

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.after_step.append(pl_module.weight.item())


def best(folder: Path, **options) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "best", monitor="val/weight", save_last=True, **options)


def test_the_average_is_validated_and_the_raw_weights_are_trained(toy, batches, trainer) -> None:
    plain = copy.deepcopy(toy)
    trainer(max_epochs=2).fit(plain, batches())
    watcher = Watcher()
    run = trainer(EMA(decay=0.5), watcher, max_epochs=2, num_sanity_val_steps=0)
    run.fit(toy, batches(), batches(1))
    assert toy.trained_on == pytest.approx(plain.trained_on)
    steps = watcher.after_step
    expected = [averaged(steps[:5], 0.5), averaged(steps, 0.5)]
    assert toy.validated == pytest.approx(expected)
    assert watcher.after_validation == pytest.approx(expected)
    assert abs(expected[1] - steps[-1]) > 0.01


def test_a_long_run_keeps_the_share_that_was_asked_for() -> None:
    # (1 + n) / (10 + n) passes 0.5 at n = 8
    assert averaged([0.0] * 9 + [1.0], 0.5) == 0.5


def test_after_training_the_module_holds_the_average(toy, batches, trainer) -> None:
    watcher = Watcher()
    trainer(EMA(0.9), watcher).fit(toy, batches())
    assert toy.weight.item() == pytest.approx(averaged(watcher.after_step, 0.9))


def test_saved_and_tested_is_what_was_validated(toy, batches, trainer, tmp_path: Path) -> None:
    checkpoint = best(tmp_path, mode="min")
    run = trainer(EMA(0.9), checkpoint, max_epochs=2, enable_checkpointing=True)
    run.fit(toy, batches(), batches(1))
    saved = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    assert saved["weight"].item() == min(toy.validated) == checkpoint.best_model_score.item()
    run.test(toy, batches(1), ckpt_path="best", verbose=False)
    assert toy.tested == [min(toy.validated)]
    other = type(toy)()
    other.load_state_dict(saved)
    assert other.weight.item() == min(toy.validated)


def test_weights_saved_alone_after_a_validation_are_the_validated_ones(
    toy, batches, trainer, tmp_path: Path
) -> None:
    checkpoint = best(tmp_path, mode="min", save_weights_only=True)
    run = trainer(EMA(0.9), checkpoint, enable_checkpointing=True)
    run.fit(toy, batches(), batches(1))
    saved = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    assert saved["weight"].item() == toy.validated[-1]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_run_equals_one_that_was_not_interrupted(
    toy, batches, trainer, tmp_path: Path, accumulated: int
) -> None:
    whole, first, second = (copy.deepcopy(toy) for _ in range(3))
    options = {"accumulate_grad_batches": accumulated}
    trainer(EMA(0.9), max_epochs=4, **options).fit(whole, batches(), batches(1))
    run = trainer(EMA(0.9), max_epochs=2, **options)
    run.fit(first, batches(), batches(1))
    run.save_checkpoint(tmp_path / "half.ckpt")
    resumed = trainer(EMA(0.9), max_epochs=4, **options)
    resumed.fit(second, batches(), batches(1), ckpt_path=tmp_path / "half.ckpt")
    assert first.trained_on + second.trained_on == whole.trained_on
    assert second.validated == [first.weight.item(), *whole.validated[-2:]]  # sanity check first
    for name, tensor in second.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=0, atol=0)


def test_a_checkpoint_between_validations_holds_the_average_too(
    toy, batches, trainer, tmp_path: Path
) -> None:
    checkpoint, watcher = ModelCheckpoint(tmp_path, "two", every_n_train_steps=2), Watcher()
    trainer(EMA(0.9), watcher, checkpoint, enable_checkpointing=True).fit(toy, batches(3))
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)["state_dict"]
    assert saved["weight"].item() == pytest.approx(averaged(watcher.after_step[:3], 0.9))


def test_a_test_of_a_plain_checkpoint_does_not_speak_of_averages(
    toy, batches, trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer()
    run.fit(toy, batches())
    run.save_checkpoint(tmp_path / "plain.ckpt")
    expected = toy.weight.item()
    toy.weight.data.zero_()
    trainer(EMA()).test(toy, batches(1), ckpt_path=tmp_path / "plain.ckpt", verbose=False)
    assert toy.tested == [expected]
    assert "average" not in caplog.text


def test_a_checkpoint_without_an_average_starts_one(toy, batches, trainer, tmp_path: Path) -> None:
    run = trainer()
    run.fit(toy, batches())
    run.save_checkpoint(tmp_path / "plain.ckpt")
    watcher, start = Watcher(), toy.weight.item()
    resumed = trainer(EMA(0.9), watcher, max_epochs=2)
    resumed.fit(toy, batches(), ckpt_path=tmp_path / "plain.ckpt")
    expected = averaged([start, *watcher.after_step[1:]], 0.9)
    assert toy.weight.item() == pytest.approx(expected)


def test_an_accumulated_step_counts_once(toy, batches, trainer) -> None:
    watcher = Watcher()
    trainer(EMA(0.9), watcher, accumulate_grad_batches=2).fit(toy, batches(4))
    expected = averaged([watcher.after_step[k] for k in (0, 2, 4)], 0.9)
    assert toy.weight.item() == pytest.approx(expected)


def test_running_statistics_are_averaged_and_counters_are_not(toy, batches, trainer) -> None:
    trainer(EMA(0.9)).fit(toy, batches(1))
    # The batch 1, 2 has mean 1.5; batch norm moves by 0.1 of it, the average by 0.9 of that.
    assert toy.norm.running_mean.item() == pytest.approx(0.9 * 0.15)
    assert toy.norm.num_batches_tracked.item() == 1


def test_the_average_of_half_precision_weights_moves(toy, batches, trainer) -> None:
    toy.weight.data = toy.weight.data.bfloat16()
    average = EMA(0.999)
    run = trainer(average)
    run.fit(toy, batches(1))
    average._average["weight"].fill_(1.0)
    average._updates = 10**6  # from here on the share that is kept is 0.999
    average.on_train_start(run, toy)
    toy.weight.data.fill_(2.0)
    for average._step in range(-3, 0):
        average.on_train_batch_end(run, toy, None, None, 0)
    assert average._average["weight"].item() == pytest.approx(2 - 0.999**3)


def test_an_impossible_decay_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"decay=1\.0"):
        EMA(1.0)
