"""Pictures that the data module keeps in memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rcnn.data import DetectionBatch, ShapesSource, TransformedDataset
from rcnn.data.stored import ProposalFiles
from rcnn.model.transform import ImageSettings
from rcnn.settings import SettingsError
from rcnn.training import DetectionDataModule, LoaderSettings

MIB = 1 / 1024


def data_of(cache_gib: float, side: int = 48, **loader: Any) -> DetectionDataModule:
    return DetectionDataModule(
        ShapesSource(train=6, val=4, test=3, size=64),
        LoaderSettings(workers=0, cache_gib=cache_gib, **loader),
        images=ImageSettings(shorter_side=side, longer_side=64),
    )


def cached(loader: Any) -> tuple[int, int] | None:
    """How many pictures have a place, and how many bytes; None without cache."""
    dataset: TransformedDataset = loader.dataset
    return None if dataset.cache is None else (len(dataset.cache), dataset.cache.size)


def twice(loader: Any) -> list[DetectionBatch]:
    return [batch for _ in range(2) for batch in loader]


@pytest.mark.parametrize("sides", [None, (32, 64)])
def test_minibatches_are_the_same_with_and_without_cache(sides: tuple[int, ...] | None) -> None:
    plain, kept = data_of(0.0, shorter_sides=sides), data_of(MIB, shorter_sides=sides)
    for name in ("train_dataloader", "val_dataloader"):
        one, other = twice(getattr(plain, name)()), twice(getattr(kept, name)())
        for a, b in zip(one, other, strict=True):
            assert a.image_ids == b.image_ids
            assert torch.equal(a.images.pixels, b.images.pixels)
            assert torch.equal(a.targets.boxes, b.targets.boxes)


def test_pictures_are_kept_resized_unless_there_are_several_sizes() -> None:
    assert cached(data_of(MIB).train_dataloader()) == (6, 6 * 3 * 48 * 48)
    assert cached(data_of(MIB, shorter_sides=(32, 48)).train_dataloader()) == (6, 6 * 3 * 64 * 64)


def test_training_and_validation_share_the_memory_and_a_test_has_none() -> None:
    data = data_of(8 * 3 * 48 * 48 / 2**30)
    assert cached(data.train_dataloader()) == (6, 6 * 3 * 48 * 48)
    assert cached(data.val_dataloader()) == (2, 2 * 3 * 48 * 48)
    assert cached(data.test_dataloader()) is None


def test_a_loader_that_is_opened_again_finds_the_pictures() -> None:
    data = data_of(MIB)
    list(data.train_dataloader())
    again: Any = data.train_dataloader().dataset
    assert again.cache.filled == 6


def test_without_memory_there_is_no_cache() -> None:
    assert cached(data_of(0.0).train_dataloader()) is None


def test_cached_images_have_their_proposals(propose: Callable[..., Any]) -> None:
    source = ShapesSource(train=4, val=2, test=2, size=64)
    data = DetectionDataModule(
        source,
        LoaderSettings(workers=0, cache_gib=MIB),
        images=ImageSettings(shorter_side=64, longer_side=64),
        proposals=ProposalFiles(str(propose(source))),
    )
    for batch in twice(data.train_dataloader()):
        assert batch.images.proposals is not None
        torch.testing.assert_close(batch.images.proposals.boxes, batch.targets.boxes)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_impossible_size_is_named(value: float) -> None:
    with pytest.raises(SettingsError, match="cache_gib"):
        LoaderSettings(cache_gib=value)
