"""A loss that is no number stops the run, says why, and leaves no checkpoint behind."""

import importlib
import sys
import textwrap
from pathlib import Path

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from rcnn.launch import run_in_processes
from rcnn.training.callbacks import FiniteLoss, NonFiniteLossError

NAN, INF = float("nan"), float("inf")


class OnGPU(FiniteLoss):
    """Reads losses as on a GPU: not before the window is full."""

    def on_train_batch_end(self, trainer, *arguments) -> None:
        device = trainer.strategy.root_device
        trainer.strategy._root_device = type("Device", (), {"type": "cuda"})()
        try:
            super().on_train_batch_end(trainer, *arguments)
        finally:
            trainer.strategy._root_device = device


def test_the_error_names_images_losses_step_and_rate(toy, batches, trainer) -> None:
    with pytest.raises(NonFiniteLossError) as caught:
        trainer(FiniteLoss()).fit(toy, batches(4, {2: NAN}))
    message = str(caught.value)
    assert (
        "Step 3, learning rate 0.1: roi_classes is nan, roi_boxes is nan, loss is nan." in message
    )
    assert "Images of the minibatch: image_4, 5." in message
    # (1 + 2^2) / 2; then the weight is -0.1 * (1 + 2) and (1.7^2 + 2.7^2) / 2
    assert "Losses before: 2.5, 5.09." in message
    assert len(toy.trained_on) == 3


def test_infinity_is_no_number(toy, batches, trainer) -> None:
    with pytest.raises(NonFiniteLossError, match=r"roi_boxes is inf, loss is .*none, it is the"):
        trainer(FiniteLoss()).fit(toy, batches(4, {0: INF}))


def test_a_healthy_run_is_left_alone(toy, batches, trainer) -> None:
    trainer(FiniteLoss(window=2), max_epochs=2).fit(toy, batches(5), batches(1))
    assert len(toy.trained_on) == 10


def test_the_step_of_accumulated_minibatches_is_the_optimisers(toy, batches, trainer) -> None:
    with pytest.raises(NonFiniteLossError, match=r"Step 2, .*image_4"):
        trainer(FiniteLoss(), accumulate_grad_batches=2).fit(toy, batches(4, {2: NAN}))


def test_on_a_gpu_the_first_bad_step_of_a_window_is_named(toy, batches, trainer) -> None:
    with pytest.raises(NonFiniteLossError, match=r"Step 3, .*image_4, 5\. Losses before: 2\.5, "):
        trainer(OnGPU(window=5)).fit(toy, batches(9, {2: NAN}))
    assert len(toy.trained_on) == 5


def test_on_a_gpu_the_rest_of_a_window_is_read_before_validation(toy, batches, trainer) -> None:
    run = trainer(OnGPU(window=50), num_sanity_val_steps=0)
    with pytest.raises(NonFiniteLossError, match=r"Step 3, .*image_4"):
        run.fit(toy, batches(4, {2: NAN}), batches(1))
    assert toy.validated == []


def test_no_checkpoint_with_spoiled_weights_is_written(
    toy, batches, trainer, tmp_path: Path
) -> None:
    checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    run = trainer(OnGPU(window=50), checkpoint, enable_checkpointing=True)
    with pytest.raises(NonFiniteLossError, match=r"Step 3, .*image_4"):
        run.fit(toy, batches(8, {2: NAN}))
    assert [file.name for file in tmp_path.iterdir()] == ["step=2.ckpt"]


def test_a_skipped_step_has_no_loss(toy, batches, trainer) -> None:
    step = toy.training_step
    toy.training_step = lambda batch, batch_idx: step(batch, batch_idx) if batch_idx != 1 else None
    with pytest.warns(UserWarning, match="returned `None`"):
        trainer(FiniteLoss()).fit(toy, batches(3))
    assert len(toy.trained_on) == 2


@pytest.mark.slow
def test_the_images_of_the_process_that_saw_them_are_named_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "finite_toy.py").write_text(
        textwrap.dedent("""
        import types, torch, pytorch_lightning as pl
        from rcnn.training.callbacks.finite import FiniteLoss, NonFiniteLossError
        class Toy(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(()))
            def training_step(self, batch, index):
                bad = self.global_rank == 1 and index == 1
                return {"loss": self.weight * (float("nan") if bad else 1.0)}
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.5)
            def train_dataloader(self):
                ids = [types.SimpleNamespace(image_ids=(f"{self.global_rank}-{k}",))
                       for k in range(4)]
                return torch.utils.data.DataLoader(ids, batch_size=None)
        def train(folder):
            guard = FiniteLoss()
            trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1,
                                 default_root_dir=folder, logger=False, callbacks=[guard],
                                 enable_model_summary=False, enable_checkpointing=False,
                                 enable_progress_bar=False, use_distributed_sampler=False)
            try:
                trainer.fit(Toy())
            except NonFiniteLossError as error:
                return str(error)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "finite_toy", raising=False)
    toy = importlib.import_module("finite_toy")
    message = run_in_processes(toy.train, (str(tmp_path),), 2)
    assert message is not None
    assert "Images of the minibatch: 1-1." in message
