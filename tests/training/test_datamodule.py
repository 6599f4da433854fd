"""The data module: minibatches of the size that the trainer's module wants."""

from collections.abc import Callable

import pytest
import pytorch_lightning as pl
import torch

from rcnn.data import DetectionBatch, ShapesSource
from rcnn.model.images import ImageSettings
from rcnn.settings import SettingsError
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings

MakeTrainer = Callable[..., pl.Trainer]


def data_of(train: int = 5, val: int = 3, **loader: object) -> DetectionDataModule:
    source = ShapesSource(train=train, val=val, test=3, size=64)
    return DetectionDataModule(
        source,
        LoaderSettings(workers=0, **loader),  # type: ignore[arg-type]
        images=ImageSettings(shorter_side=64, longer_side=64),
    )


def batches_of(loader: object) -> list[DetectionBatch]:
    return list(loader)  # type: ignore[call-overload]


def test_training_minibatches_are_full_and_miss_no_image() -> None:
    batches = batches_of(data_of().train_dataloader())
    assert [len(batch) for batch in batches] == [2, 2, 2]
    assert len({name for batch in batches for name in batch.image_ids}) == 5


def test_evaluation_sees_every_image_once() -> None:
    batches = batches_of(data_of().val_dataloader())
    assert sorted(name for batch in batches for name in batch.image_ids) == sorted(
        data_of().dataset("val").image_ids
    )


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
    data = data_of(train=16, shorter_sides=(32, 64))
    sides = {
        size for batch in batches_of(data.train_dataloader()) for size, _ in batch.images.sizes
    }
    assert {int(side) for side in sides} == {32, 64}


def test_targets_follow_the_mirrored_image() -> None:
    plain = batches_of(data_of(flip=0.0).train_dataloader())
    mirrored = batches_of(data_of(flip=1.0).train_dataloader())
    for a, b in zip(plain, mirrored, strict=True):
        assert a.image_ids == b.image_ids
        assert a.images.pixels.flip(-1).equal(b.images.pixels)
        used = a.targets.labels > 0
        torch.testing.assert_close(
            64 - a.targets.boxes[used][:, [2, 0]], b.targets.boxes[used][:, [0, 2]]
        )


def test_without_a_validation_split_there_is_no_loader() -> None:
    assert data_of(val=0).val_dataloader() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 0), ("workers", -1), ("flip", 1.5), ("shorter_sides", ())],
)
def test_impossible_loader_settings_are_named(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=key):
        LoaderSettings(**{key: value})  # type: ignore[arg-type]
