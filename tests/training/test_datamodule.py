"""The data module: minibatches of the size that the trainer's module wants."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rcnn.data import (
    AspectGroupedBatchSampler,
    AugmentSettings,
    DataError,
    DataSource,
    DetectionBatch,
    ShapesSource,
)
from rcnn.data.proposals import ProposalFiles
from rcnn.model.transform import ImageSettings
from rcnn.settings import SettingsError
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from tests.training.toy import MakeTrainer, Recorder

Propose = Callable[[DataSource], Path]


def data_of(
    train: int = 5,
    val: int = 3,
    proposals: ProposalFiles | None = None,
    augment: AugmentSettings | None = None,
    **loader: Any,
) -> DetectionDataModule:
    return DetectionDataModule(
        ShapesSource(train, val, test=3, size=64),
        LoaderSettings(**{"workers": 0, **loader}),
        ImageSettings(shorter_side=64, longer_side=64),
        proposals,
        augment,
    )


def batches_of(loader: Any) -> list[DetectionBatch]:
    return list(loader)


def test_training_minibatches_are_full_and_miss_no_image() -> None:
    batches = batches_of(data_of().train_dataloader())
    assert [len(batch) for batch in batches] == [2, 2, 2]
    assert len({name for batch in batches for name in batch.image_ids}) == 5


def test_evaluation_sees_every_image_once() -> None:
    data = data_of()
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        names = [name for batch in batches_of(loader) for name in batch.image_ids]
        assert sorted(names) == sorted(data.dataset(split).image_ids)  # type: ignore[arg-type]


def test_the_size_of_the_images_is_the_modules(
    module: DetectionModule, trainer: MakeTrainer
) -> None:
    source = ShapesSource(train=2, val=2, test=2, size=100)
    data = DetectionDataModule(source, LoaderSettings(workers=0))
    trainer().test(module, data, verbose=False)
    (batch,) = batches_of(data.test_dataloader())
    assert batch.images.pixels.shape == (2, 3, 64, 64)
    assert batch.images.original_sizes.tolist() == [[100, 100]] * 2


def test_training_scales_are_drawn_from_the_list() -> None:
    batches = batches_of(
        data_of(16, augment=AugmentSettings(shorter_sides=(32, 64))).train_dataloader()
    )
    assert {int(size) for batch in batches for size in batch.images.sizes[:, 0]} == {32, 64}


def test_targets_follow_the_mirrored_image() -> None:
    plain = batches_of(data_of(augment=AugmentSettings(flip=0.0)).train_dataloader())
    mirrored = batches_of(data_of(augment=AugmentSettings(flip=1.0)).train_dataloader())
    for a, b in zip(plain, mirrored, strict=True):
        assert a.image_ids == b.image_ids
        assert a.images.pixels.flip(-1).equal(b.images.pixels)
        used = a.targets.labels > 0
        torch.testing.assert_close(
            64 - a.targets.boxes[used][:, [2, 0]], b.targets.boxes[used][:, [0, 2]]
        )


@pytest.mark.parametrize(
    ("limits", "augmented"),
    [
        ({"max_epochs": 4}, 6),
        ({"max_epochs": -1, "max_steps": 10}, 4),
        ({"max_epochs": 4, "max_steps": 4, "accumulate_grad_batches": 2}, 2),
        ({"max_epochs": 4, "limit_train_batches": 2}, 4),
    ],
)
def test_the_last_two_epochs_are_without_augmentation(
    trainer: MakeTrainer, limits: dict[str, int], augmented: int
) -> None:
    data = data_of(augment=AugmentSettings(noise=9.0, off_for_last=2))  # 3 minibatches an epoch
    data.trainer = trainer(**limits)
    sampler = data.train_dataloader().batch_sampler
    assert isinstance(sampler, AspectGroupedBatchSampler)
    assert sampler.augmented_batches == augmented


def test_last_epochs_that_are_not_known_are_an_error(trainer: MakeTrainer) -> None:
    data = data_of(augment=AugmentSettings(off_for_last=2))
    data.trainer = trainer(max_epochs=-1, max_steps=-1)
    with pytest.raises(SettingsError, match=r"augment\.off_for_last=2.*trainer\.max_epochs"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 0), ("workers", -1), ("eval_batch_size", 0), ("seed", -1)],
)
def test_impossible_loader_settings_are_named(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=key):
        LoaderSettings(**{key: value})


# --- what a trainer sees ----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("overfit", "count"), [(2, 2), (0.5, 3)])
def test_overfit_batches_repeats_the_same_minibatches_in_every_epoch(
    trainer: MakeTrainer, workers: int, overfit: float, count: int
) -> None:
    module, usual = Recorder(), Recorder()
    trainer(max_epochs=3, overfit_batches=overfit).fit(module, data_of(train=12, workers=workers))
    pictures = [(names, column) for _, names, column in module.seen]
    assert len(pictures) == 3 * count
    assert pictures[:count] == pictures[count : 2 * count] == pictures[2 * count :]
    assert len({name for names, _ in pictures[:count] for name in names}) == 2 * count
    trainer(max_epochs=2).fit(usual, data_of(train=12, workers=workers))
    others = [(names, column) for _, names, column in usual.seen]
    assert pictures[:count] == others[:count]
    assert others[:6] != others[6:]


def test_other_classes_than_the_modules_are_refused_by_name(
    module: DetectionModule, trainer: MakeTrainer
) -> None:
    source = ShapesSource(train=2, val=2, test=2, size=64, class_names=["square"])
    with pytest.raises(ValueError, match=r"test split has the classes square, .* circle, square"):
        trainer().test(module, DetectionDataModule(source, LoaderSettings(workers=0)))


@pytest.mark.parametrize("scales", [None, (32, 64)])
def test_original_pixels_travel_along_if_a_detector_tests_at_several_scales(
    scales: tuple[int, ...] | None,
) -> None:
    images = ImageSettings(shorter_side=32, longer_side=64, test_scales=scales)
    source = ShapesSource(train=2, val=1, test=1, size=100)
    data = DetectionDataModule(source, LoaderSettings(workers=0), images=images)
    (training,), (testing,) = (
        batches_of(loader) for loader in (data.train_dataloader(), data.test_dataloader())
    )
    assert training.images.originals is None
    assert testing.images.pixels.shape == (1, 3, 32, 32)
    if scales is None:
        assert testing.images.originals is None
    else:
        assert testing.images.originals is not None
        assert torch.equal(testing.images.originals[0], data.dataset("test")[0].image)


def test_without_a_validation_split_there_is_no_loader() -> None:
    assert data_of(val=0).val_dataloader() == []


# --- stored proposals -------------------------------------------------------------------------

SHAPES = ShapesSource(8, 3, 3, 64)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_proposals_follow_the_mirrored_and_resized_image(propose: Propose, flip: float) -> None:
    files = ProposalFiles(str(propose(SHAPES)))
    data = data_of(8, 3, files, AugmentSettings(flip, (32, 64)))
    batches = batches_of(data.train_dataloader())
    assert {int(side) for batch in batches for side in batch.images.sizes.flatten()} == {32, 64}
    for batch in batches:
        given = batch.images.proposals
        assert given is not None
        assert torch.equal(given.valid, batch.targets.labels > 0)
        torch.testing.assert_close(given.boxes, batch.targets.boxes)


def test_every_split_has_its_own_proposals_up_to_the_limit(propose: Propose) -> None:
    folder = str(propose(SHAPES))
    data, limited = (data_of(8, 3, ProposalFiles(folder, limit)) for limit in (2000, 1))
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        for batch in batches_of(loader):
            assert batch.images.proposals is not None
            torch.testing.assert_close(batch.images.proposals.boxes, batch.targets.boxes)
    for batch in batches_of(limited.test_dataloader()):
        assert batch.images.proposals is not None
        assert batch.images.proposals.boxes.shape[1] == 1


def test_missing_and_foreign_proposals_are_refused_before_the_training(propose: Propose) -> None:
    folder = propose(SHAPES)
    with pytest.raises(DataError, match="proposals"):
        data_of(9, 3, ProposalFiles(str(folder))).setup("fit")
    (folder / "val.safetensors").unlink()
    with pytest.raises(DataError, match=r"val\.safetensors.*rcnn propose"):
        data_of(8, 3, ProposalFiles(str(folder))).setup("fit")
    with pytest.raises(DataError, match=r"proposals\.folder"):
        data_of(8, 3, ProposalFiles()).setup("fit")


# --- worker processes -------------------------------------------------------------------------

READER = """
import multiprocessing, sys
multiprocessing.set_start_method(sys.argv[1])
from rcnn.data import ShapesSource
from rcnn.training import DetectionDataModule, LoaderSettings

source = ShapesSource(train=8, val=2, test=2, size=64)
data = DetectionDataModule(source, LoaderSettings(workers=2))
batches = iter(data.train_dataloader())
next(batches)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
sys.stdin.read()
"""


def is_there(process: int) -> bool:
    """Return whether a process runs; one that has ended may still wait to be collected."""
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_workers_end_when_their_reader_is_killed(start: str) -> None:
    words = [sys.executable, "-W", "ignore", "-c", READER, start]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        workers = [int(word) for word in reader.stdout.readline().split()]
        assert len(workers) == 2
        assert all(is_there(worker) for worker in workers)
        os.kill(reader.pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while any(is_there(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(is_there(worker) for worker in workers)
