"""The data module: minibatches of the size that the trainer's module wants."""

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from rcnn.data import DataError, DataSource, DetectionBatch, ShapesSource
from rcnn.data.stored import ProposalFiles, ProposedDataset
from rcnn.model.transform import ImageSettings
from rcnn.settings import SettingsError
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings

MakeTrainer = Callable[..., pl.Trainer]
Propose = Callable[[DataSource], Path]


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


def proposed_data(propose: Propose, limit: int = 2000, **loader: object) -> DetectionDataModule:
    """Data whose proposals are its objects."""
    source = ShapesSource(train=8, val=3, test=3, size=64)
    return DetectionDataModule(
        source,
        LoaderSettings(workers=0, **loader),  # type: ignore[arg-type]
        images=ImageSettings(shorter_side=64, longer_side=64),
        proposals=ProposalFiles(str(propose(source)), limit),
    )


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_proposals_follow_the_mirrored_and_resized_image(propose: Propose, flip: float) -> None:
    data = proposed_data(propose, flip=flip, shorter_sides=(32, 64))
    batches = batches_of(data.train_dataloader())
    sides = {int(side) for batch in batches for side in batch.images.sizes.flatten()}
    assert sides == {32, 64}
    for batch in batches:
        given, used = batch.images.proposals, batch.targets.labels > 0
        assert given is not None
        assert torch.equal(given.valid, used)
        torch.testing.assert_close(given.boxes, batch.targets.boxes)


def test_every_split_has_its_own_proposals(propose: Propose) -> None:
    data = proposed_data(propose)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        for batch in batches_of(loader):
            assert batch.images.proposals is not None
            torch.testing.assert_close(batch.images.proposals.boxes, batch.targets.boxes)
    for split in ("train", "val", "test"):
        assert isinstance(data.dataset(split), ProposedDataset)


def test_no_more_proposals_are_read_than_the_limit(propose: Propose) -> None:
    batches = batches_of(proposed_data(propose, limit=1).test_dataloader())
    for batch in batches:
        assert batch.images.proposals is not None
        assert batch.images.proposals.boxes.shape[1] == 1
    assert any(batch.targets.labels.shape[1] > 1 for batch in batches)


def test_a_missing_file_is_told_with_the_command_that_makes_it(propose: Propose) -> None:
    data = proposed_data(propose)
    assert data.proposals is not None
    file = Path(str(data.proposals.folder), "val.proposals")
    file.unlink()
    data.train_dataloader()
    with pytest.raises(DataError, match=r"val\.proposals: there is no such file.*`rcnn propose"):
        data.val_dataloader()


def test_no_folder_is_told_with_the_setting_to_give() -> None:
    source = ShapesSource(train=2, val=2, test=2, size=64)
    data = DetectionDataModule(source, proposals=ProposalFiles())
    with pytest.raises(DataError, match=r"proposals\.folder is null"):
        data.setup("fit")


def test_proposals_of_other_images_are_refused(propose: Propose) -> None:
    folder = propose(ShapesSource(train=2, val=2, test=2, size=64))
    other = ShapesSource(train=3, val=2, test=2, size=64)
    data = DetectionDataModule(other, proposals=ProposalFiles(str(folder)))
    with pytest.raises(DataError, match="1 of the data set's 3 images have no proposals"):
        data.setup("fit")


def test_a_limit_below_one_is_named() -> None:
    with pytest.raises(SettingsError, match="limit=0"):
        ProposalFiles("somewhere", 0)


def test_without_a_validation_split_there_is_no_loader() -> None:
    assert data_of(val=0).val_dataloader() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 0), ("workers", -1), ("flip", 1.5), ("shorter_sides", ())],
)
def test_impossible_loader_settings_are_named(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=key):
        LoaderSettings(**{key: value})  # type: ignore[arg-type]
