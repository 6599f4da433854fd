"""The learning rate at which the loss falls fastest, and the largest minibatch that fits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from rcnn.data import Sample, ShapesSource
from rcnn.data.augment import AugmentSettings
from rcnn.data.shapes import ShapesDataset
from rcnn.data.splits import Split
from rcnn.model.transform import ImageSettings
from rcnn.training import DetectionDataModule, DetectionModule, tuning
from rcnn.training.tuning import largest_batch_size, largest_minibatch, rate_curve, steepest_fall

MIB = 2**20


def test_the_suggestion_is_where_the_loss_falls_fastest_over_powers_of_ten() -> None:
    rates = np.logspace(-6, 0, 61)
    losses = 1 / (1 + np.exp(2 * np.log(rates / 1e-3)))  # steepest at 1e-3
    assert steepest_fall(rates, losses) == pytest.approx(1e-3)


def test_first_steps_and_losses_that_are_not_finite_do_not_count() -> None:
    rates = np.logspace(-6, 0, 61)
    losses = 1 / (1 + np.exp(2 * np.log(rates / 1e-3)))
    losses[:3] = [30.0, 20.0, 10.0]
    losses[40:] = math.nan
    losses[50] = -math.inf
    assert steepest_fall(rates, losses) == pytest.approx(1e-3)


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [math.nan] * 3])
def test_where_the_loss_never_falls_nothing_is_suggested(losses: list[float]) -> None:
    assert steepest_fall(np.logspace(-3, -1, len(losses)), np.array(losses)) is None


def test_the_curve_spans_six_powers_of_ten_and_leaves_the_weights(
    module: DetectionModule, data: DetectionDataModule
) -> None:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer = pl.Trainer(
        max_steps=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    curve = rate_curve(trainer, module, data, lr=1e-3, steps=4)
    assert len(curve.losses) == len(curve.rates) == 4
    assert curve.rates[-1] == pytest.approx(1.0)
    assert curve.rates[0] < 1e-4
    assert curve.rates == sorted(curve.rates)
    assert all(math.isfinite(loss) for loss in curve.losses)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


class Memory:
    """A device whose steps take 100 MiB and 10 MiB an image."""

    def __init__(self, total: int, monkeypatch: pytest.MonkeyPatch, need: int = 10) -> None:
        self.total, self.need = total * MIB, need
        self.peak = 0
        self.tried: list[int] = []
        monkeypatch.setattr(tuning, "peak_memory", lambda _: self.peak)
        monkeypatch.setattr(tuning, "free_memory", lambda _: self.total - self.peak)

    def step(self, size: int) -> None:
        self.tried.append(size)
        # The workspace of a large minibatch grows faster than the first sizes show.
        memory = (100 + self.need * size + size**2 // 50) * MIB
        if memory > self.total:
            raise torch.OutOfMemoryError
        self.peak = max(self.peak, memory)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("images", "expected"), [(1, 1), (3, 3), (20, 20)])
def test_there_are_no_more_images_than_the_training_split_has(
    device: str, images: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(100_000, monkeypatch)
    assert largest_batch_size(memory.step, images, torch.device(device)) == expected


def test_on_a_cpu_the_size_is_extrapolated_and_never_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Memory(1140, monkeypatch)
    # 0.9 of the 1000 MiB that are left after 4 images, at 10 MiB an image
    assert largest_batch_size(memory.step, 500, torch.device("cpu")) == 4 + 90
    assert memory.tried == [1, 2, 4]


def test_on_a_gpu_a_real_step_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(1140, monkeypatch)
    size = largest_batch_size(memory.step, 500, torch.device("cuda"))
    assert memory.tried == [1, 2, 4, 94, 84]
    assert size == 84


def test_the_memory_of_this_process_is_read() -> None:
    cpu = torch.device("cpu")
    assert 50 * MIB < tuning.peak_memory(cpu) < 2**40
    before = tuning.peak_memory(cpu)
    block = np.ones(200 * MIB, dtype=np.uint8)
    assert tuning.peak_memory(cpu) - before > 100 * MIB or before > block.nbytes
    assert 0 < tuning.free_memory(cpu) < 2**50


def test_the_minibatch_is_padded_to_the_widest_and_the_highest_image() -> None:
    class Pictures(ShapesDataset):
        """A square, a wide and a high picture."""

        def __init__(self) -> None:
            super().__init__(3, 48)
            self.aspect_ratios = np.array([1.0, 2.0, 1 / 3], dtype=np.float32)

        def __getitem__(self, index: int) -> Sample:
            height, width = [(48, 48), (30, 60), (75, 25)][index]
            image = torch.zeros(3, height, width, dtype=torch.uint8)
            original = super().__getitem__(index)
            return replace(original, image=image, original_size=(height, width))

    class Source(ShapesSource):
        def dataset(self, split: Split) -> Pictures:  # noqa: ARG002
            return Pictures()

    augment = AugmentSettings(shorter_sides=(32, 40))
    data = DetectionDataModule(Source(), augment=augment)
    # At a shorter side of 40 pixels: 40 x 40, 40 x 80, and 100 x 33, which 96 cuts to 96 x 32.
    images = ImageSettings(shorter_side=24, longer_side=96, multiple=16)
    batch = largest_minibatch(data, images, 3)
    assert batch.images.sizes.tolist() == [[40, 80], [96, 32], [40, 80]]
    assert batch.images.pixels.shape == (3, 3, 96, 80)
