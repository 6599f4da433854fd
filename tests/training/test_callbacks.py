"""Averaged weights, the guard against NaN, pictures of validation images."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

import copy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]  # the package has no types
    EventAccumulator,
)

from rcnn.settings import SettingsError
from rcnn.training import DetectionDataModule, DetectionModule
from rcnn.training.callbacks import EMA, FiniteLoss, NonFiniteLossError, Pictures
from tests.training.toy import Batch, Batches, MakeTrainer, Toy, TwoProcesses

NAN, INF = float("nan"), float("inf")


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

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.after_validation.append(pl_module.weight.item())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        self.after_step.append(pl_module.weight.item())


class TestEMA:
    def test_the_average_is_validated_and_the_raw_weights_are_trained(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        plain = copy.deepcopy(toy)
        trainer(max_epochs=2).fit(plain, batches())
        watcher = Watcher()
        run = trainer(EMA(decay=0.5), watcher, max_epochs=2, num_sanity_val_steps=1)
        run.fit(toy, batches(), batches(1))
        assert toy.trained_on == pytest.approx(plain.trained_on)
        steps = watcher.after_step
        expected = [0.0, averaged(steps[:5], 0.5), averaged(steps, 0.5)]
        assert toy.validated == pytest.approx(expected)
        # Callbacks that follow, such as Pictures, see what was validated.
        assert watcher.after_validation == pytest.approx(expected)
        assert toy.weight.item() == pytest.approx(expected[-1])
        assert abs(expected[-1] - steps[-1]) > 0.01

    @pytest.mark.parametrize("weights_only", [False, True])
    def test_saved_and_tested_is_what_was_validated(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer, tmp_path: Path, weights_only: bool
    ) -> None:
        checkpoint = ModelCheckpoint(
            *(tmp_path, "best", "val/weight"), mode="min", save_weights_only=weights_only
        )
        run = trainer(EMA(0.9), checkpoint, max_epochs=2, enable_checkpointing=True)
        run.fit(toy, batches(), batches(1))
        saved = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
        assert saved["weight"].item() == min(toy.validated) == checkpoint.best_model_score.item()
        run.test(toy, batches(1), ckpt_path="best", verbose=False)
        assert toy.tested == [min(toy.validated)]
        other = type(toy)()
        other.load_state_dict(saved)
        assert other.weight.item() == min(toy.validated)

    def test_a_checkpoint_between_validations_holds_the_average_too(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer, tmp_path: Path
    ) -> None:
        checkpoint, watcher = ModelCheckpoint(tmp_path, "two", every_n_train_steps=2), Watcher()
        run = trainer(EMA(0.9), watcher, checkpoint, enable_checkpointing=True)
        run.fit(toy, batches(3))
        saved = torch.load(tmp_path / "two.ckpt", weights_only=True)["state_dict"]
        assert saved["weight"].item() == pytest.approx(averaged(watcher.after_step[:3], 0.9))

    @pytest.mark.parametrize("accumulated", [1, 2])
    def test_a_resumed_run_equals_one_that_was_not_interrupted(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer, tmp_path: Path, accumulated: int
    ) -> None:
        """The first part has ended, so that its module holds the average when it is saved."""
        whole, first, second = (copy.deepcopy(toy) for _ in range(3))
        options = {"accumulate_grad_batches": accumulated}
        trainer(EMA(0.9), max_epochs=4, **options).fit(whole, batches(), batches(1))
        run = trainer(EMA(0.9), max_epochs=2, **options)
        run.fit(first, batches(), batches(1))
        run.save_checkpoint(tmp_path / "half.ckpt")
        resumed = trainer(EMA(0.9), max_epochs=4, num_sanity_val_steps=1, **options)
        resumed.fit(second, batches(), batches(1), ckpt_path=tmp_path / "half.ckpt")
        assert first.trained_on + second.trained_on == whole.trained_on
        assert second.validated == [first.weight.item(), *whole.validated[-2:]]
        for name, tensor in second.state_dict().items():
            torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=0, atol=0)

    def test_a_plain_checkpoint_can_be_tested_and_starts_an_average(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer, tmp_path: Path
    ) -> None:
        run, path = trainer(), tmp_path / "plain.ckpt"
        run.fit(toy, batches())
        run.save_checkpoint(path)
        start = toy.weight.item()
        toy.weight.data.zero_()
        trainer(EMA()).test(toy, batches(1), ckpt_path=path, verbose=False)
        assert toy.tested == [start]
        watcher = Watcher()
        with pytest.warns(UserWarning, match="not created with WeightAveraging"):
            trainer(EMA(0.9), watcher, max_epochs=2).fit(toy, batches(), ckpt_path=path)
        expected = averaged([start, *watcher.after_step[1:]], 0.9)
        assert toy.weight.item() == pytest.approx(expected)

    def test_an_accumulated_step_counts_once(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        watcher = Watcher()
        trainer(EMA(0.9), watcher, accumulate_grad_batches=2).fit(toy, batches(4))
        expected = averaged([watcher.after_step[k] for k in (0, 2, 4)], 0.9)
        assert toy.weight.item() == pytest.approx(expected)

    def test_running_statistics_are_averaged_and_counters_copied(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        trainer(EMA(0.9)).fit(toy, batches(1))
        # The batch 1, 2 has mean 1.5; batch norm moves by 0.1 of it, the average by 0.9 of that.
        assert toy.norm.running_mean.item() == pytest.approx(0.9 * 0.15)
        assert toy.norm.num_batches_tracked.item() == 1

    def test_the_average_of_half_precision_weights_moves(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer, tmp_path: Path
    ) -> None:
        """Near 1 a step of bfloat16 is 1/128, more than the average moves in a step."""
        toy.weight.data = torch.ones(1, dtype=torch.bfloat16)
        toy.configure_optimizers = lambda: torch.optim.SGD(toy.parameters(), lr=2**-7)
        watcher = Watcher()
        run = trainer(EMA(0.999), watcher)
        run.fit(toy, batches(3))
        run.save_checkpoint(tmp_path / "half.ckpt")
        saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"]["weight"]
        expected = averaged([1.0, *watcher.after_step[1:]], 0.999)
        assert saved.dtype == torch.float32
        assert saved.item() == pytest.approx(expected, abs=1e-6)

    def test_an_impossible_decay_is_an_error(self) -> None:
        with pytest.raises(SettingsError, match=r"decay=1\.0"):
            EMA(1.0)


class OnGPU(FiniteLoss):
    """Reads losses as on a GPU: not before the window is full."""

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        with patch.object(type(trainer.strategy), "root_device", torch.device("cuda")):
            super().on_train_batch_end(trainer, *arguments)


class TestFiniteLoss:
    def test_the_error_names_images_losses_step_and_rate(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        with pytest.raises(NonFiniteLossError) as caught:
            trainer(FiniteLoss()).fit(toy, batches(4, {2: NAN}))
        message = str(caught.value)
        for part in (
            "Step 3, learning rate 0.1: roi_classes is nan, roi_boxes is nan, loss is nan.",
            "Images of the minibatch: image_4, 5.",
            # (1 + 2^2) / 2; then the weight is -0.1 * (1 + 2) and (1.7^2 + 2.7^2) / 2
            "Losses before: 2.5, 5.09.",
        ):
            assert part in message
        assert len(toy.trained_on) == 3

    def test_infinity_is_no_number(self, toy: Toy, batches: Batches, trainer: MakeTrainer) -> None:
        with pytest.raises(NonFiniteLossError, match=r"roi_boxes is inf, loss is "):
            trainer(FiniteLoss()).fit(toy, batches(4, {0: INF}))

    @pytest.mark.parametrize("guard", [FiniteLoss(), OnGPU(window=2)])
    def test_a_healthy_run_is_left_alone(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer, guard: FiniteLoss
    ) -> None:
        trainer(guard, max_epochs=2).fit(toy, batches(5), batches(1))
        assert len(toy.trained_on) == 10

    def test_the_step_of_accumulated_minibatches_is_the_optimisers(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        with pytest.raises(NonFiniteLossError, match=r"Step 2, .*image_4"):
            trainer(FiniteLoss(), accumulate_grad_batches=2).fit(toy, batches(4, {2: NAN}))

    def test_on_a_gpu_the_first_bad_step_of_a_window_is_named(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        with pytest.raises(NonFiniteLossError, match=r"Step 3, .*image_4, 5\. .*before: 2\.5, "):
            trainer(OnGPU(window=5)).fit(toy, batches(9, {2: NAN}))
        assert len(toy.trained_on) == 5

    def test_on_a_gpu_the_rest_of_a_window_is_read_before_validation(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        with pytest.raises(NonFiniteLossError, match=r"Step 3, .*image_4"):
            trainer(OnGPU(window=50)).fit(toy, batches(4, {2: NAN}), batches(1))
        assert toy.validated == []

    def test_no_checkpoint_with_spoiled_weights_is_written(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer, tmp_path: Path
    ) -> None:
        checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        run = trainer(OnGPU(window=50), checkpoint, enable_checkpointing=True)
        with pytest.raises(NonFiniteLossError, match=r"Step 3, .*image_4"):
            run.fit(toy, batches(8, {2: NAN}))
        assert [file.name for file in tmp_path.iterdir()] == ["step=2.ckpt"]

    def test_a_skipped_step_has_no_loss(
        self, toy: Toy, batches: Batches, trainer: MakeTrainer
    ) -> None:
        step = toy.training_step

        def training_step(batch: Batch, batch_idx: int) -> Any:
            return None if batch_idx == 1 else step(batch, 0)

        toy.training_step = training_step
        with pytest.warns(UserWarning, match="returned `None`"):
            trainer(FiniteLoss()).fit(toy, batches(3))
        assert len(toy.trained_on) == 2

    @pytest.mark.slow
    def test_the_images_of_the_process_that_saw_them_are_named_by_all(
        self, two_processes: TwoProcesses
    ) -> None:
        found = two_processes("""
            import types, torch, pytorch_lightning as pl
            from rcnn.training.callbacks import FiniteLoss, NonFiniteLossError

            class Toy(pl.LightningModule):
                def __init__(self):
                    super().__init__()
                    self.weight = torch.nn.Parameter(torch.zeros(()))
                def training_step(self, batch, index):
                    bad = rank == 1 and index == 1
                    return {"loss": self.weight * (float("nan") if bad else 1.0)}
                def configure_optimizers(self):
                    return torch.optim.SGD(self.parameters(), lr=0.5)
                def train_dataloader(self):
                    ids = [types.SimpleNamespace(image_ids=(f"{rank}-{k}",)) for k in range(4)]
                    return torch.utils.data.DataLoader(ids, batch_size=None)

            trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1,
                                 default_root_dir=folder, logger=False, callbacks=[FiniteLoss()],
                                 enable_model_summary=False, enable_checkpointing=False,
                                 enable_progress_bar=False, use_distributed_sampler=False)
            try:
                trainer.fit(Toy())
            except NonFiniteLossError as error:
                print(error)
        """)
        for _, output in found:
            assert "Images of the minibatch: 1-1." in output


def test_detections_and_sampled_rois_go_to_files_and_to_tensorboard(
    module: DetectionModule, data: DetectionDataModule, trainer: MakeTrainer, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    run = trainer(Pictures(tmp_path / "pictures", images=2), logger=logger)
    run.validate(module, data, verbose=False)
    logger.experiment.flush()
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "pictures").rglob("*.png"))
    names = [f"pictures/{kind}/{n}.png" for kind in ("detections", "sampled_rois") for n in (0, 1)]
    assert [str(path) for path in files] == names
    with Image.open(tmp_path / "pictures" / "detections" / "0.png") as picture:
        assert picture.size[0] > picture.size[1]  # two panels side by side
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert set(events.Tags()["images"]) == {name[9:-4] for name in names}

    run.test(module, data, verbose=False)
    tested = (tmp_path / "pictures" / "test_detections").glob("*.png")
    assert sorted(path.name for path in tested) == ["0.png", "1.png"]
