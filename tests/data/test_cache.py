"""Pictures that stay in memory."""

import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import rcnn.data.cache
from rcnn.data import (
    AspectGroupedBatchSampler,
    DataWarning,
    DetectionBatch,
    JoinedDataset,
    Pick,
    PictureCache,
    ShapesDataset,
    TrainingTransform,
    TransformedDataset,
    VOCDataset,
    collate,
)
from rcnn.data.cache import smaller_sizes
from rcnn.ops.images import resize, resized_size
from rcnn.settings import SettingsError

SIZES = np.array([[4, 6], [10, 5], [3, 3]], dtype=np.int32)


def picture(size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size[0])
    return torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_kept_picture_comes_back_with_its_order_of_bytes(interleaved: bool) -> None:
    cache = PictureCache(SIZES, 10_000)
    given = picture((10, 5))
    if interleaved:
        given = given.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert cache.get(1) is None
    assert torch.equal(cache.keep(1, given), given)
    found = cache.get(1)
    assert found is not None
    assert torch.equal(found, given)
    assert found.stride() == given.stride()
    assert cache.filled == 1


def test_neighbours_do_not_overwrite_each_other() -> None:
    cache = PictureCache(SIZES, 10_000)
    given = [picture((h, w)) for h, w in SIZES.tolist()]
    for place in (2, 0, 1):
        cache.keep(place, given[place])
    for place, one in enumerate(given):
        found = cache.get(place)
        assert found is not None
        assert torch.equal(found, one)


@pytest.mark.parametrize(
    ("limit", "count"), [(0, 0), (71, 0), (72, 1), (221, 1), (222, 2), (999, 3)]
)
def test_no_more_bytes_are_claimed_than_allowed(limit: int, count: int) -> None:
    cache = PictureCache(SIZES, limit)
    assert len(cache) == count
    assert cache.size == [0, 72, 222, 249][count] <= limit
    for place, (h, w) in enumerate(SIZES.tolist()):
        given = picture((h, w))
        assert torch.equal(cache.keep(place, given), given)
        assert (cache.get(place) is not None) == (place < count)


def test_the_smaller_of_file_and_resized_picture_is_kept() -> None:
    sizes = np.array([[1200, 1600], [300, 400], [1200, 1600]], dtype=np.int32)
    assert smaller_sizes(sizes, 600, 1000).tolist() == [[600, 800], [300, 400], [600, 800]]


def test_a_picture_kept_smaller_is_resized_as_the_transform_would() -> None:
    given = picture((12, 16))
    cache = PictureCache(np.array([[6, 8]], dtype=np.int32), 10_000)
    assert torch.equal(cache.keep(0, given), resize(given, (6, 8)))
    found = cache.get(0)
    assert found is not None
    assert torch.equal(found, resize(given, (6, 8)))


@pytest.mark.parametrize("free", ["MemTotal: 9 kB\nMemAvailable: 0 kB\n", None])
def test_memory_that_is_not_there_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: str | None
) -> None:
    file = tmp_path / "meminfo"
    if free is not None:
        file.write_text(free)
    monkeypatch.setattr(rcnn.data.cache, "MEMORY", file)
    # Where the system does not tell, torch finds that an exbibyte is too much.
    sizes = SIZES if free is not None else np.full((1 << 16, 2), 1 << 22, dtype=np.int32)
    with pytest.raises(SettingsError, match=r"cache_gib is too large: .* GiB of shared memory"):
        PictureCache(sizes, 1 << 62)


def epochs(
    cache: PictureCache | None, workers: int, context: str | None, sides: tuple[int, ...]
) -> list[DetectionBatch]:
    """The batches of two epochs."""
    dataset = ShapesDataset(7, size=64)
    loader = DataLoader(
        TransformedDataset(dataset, TrainingTransform(0.5, sides, 100), cache=cache),
        batch_sampler=AspectGroupedBatchSampler(dataset.aspect_ratios, 2, seed=0),
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=workers > 0,
        collate_fn=partial(collate, multiple=16),
    )
    return [batch for _ in range(2) for batch in loader]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("sides", [(32,), (64,), (100,), (32, 48, 100)])
@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork")])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_samples_are_the_same_with_and_without_cache(
    sides: tuple[int, ...], workers: int, context: str | None, share: float
) -> None:
    sizes = ShapesDataset(7, size=64).sizes
    if len(sides) == 1:
        sizes = smaller_sizes(sizes, sides[0], 100)
    cache = PictureCache(sizes, int(share * 3 * int(sizes.prod(1).sum())))
    assert len(cache) == int(7 * share)
    plain = epochs(None, 0, None, sides)
    for one, other in zip(plain, epochs(cache, workers, context, sides), strict=True):
        assert one.image_ids == other.image_ids
        assert torch.equal(one.images.pixels, other.images.pixels)
        assert torch.equal(one.targets.boxes, other.targets.boxes)
        assert torch.equal(one.images.original_sizes, other.images.original_sizes)
    assert cache.filled == len(cache)


def fill(cache: PictureCache, place: int) -> None:
    cache.keep(place, torch.full((3, 4, 4), place + 1, dtype=torch.uint8))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_what_one_process_keeps_all_find(context: str) -> None:
    cache = PictureCache(np.full((3, 2), 4, dtype=np.int32), 10_000)
    for place in range(2):
        child = multiprocessing.get_context(context).Process(target=fill, args=(cache, place))
        child.start()
        child.join()
        assert child.exitcode == 0
    assert [None if (p := cache.get(k)) is None else int(p[0, 0, 0]) for k in range(3)] == [
        1,
        2,
        None,
    ]


def test_an_unreadable_image_is_replaced_as_without_cache(write_voc: Callable[..., Path]) -> None:
    for image_id in "ab":
        root = write_voc(image_id)
    dataset = VOCDataset(root, "train", ["dog"])
    (root / "JPEGImages" / "b.jpg").unlink()
    cache = PictureCache(dataset.sizes, 100_000)
    transformed = TransformedDataset(dataset, TrainingTransform(), substitute=True, cache=cache)
    for _ in range(2):
        with pytest.warns(DataWarning, match=r"b\.jpg"):
            assert transformed[Pick(1, 0)].image_id == "a"
    assert cache.filled == 1


def test_joined_data_sets_name_their_cached_images_as_their_decoded_ones() -> None:
    joined = JoinedDataset({"one": ShapesDataset(2, size=32), "two": ShapesDataset(2, 1, size=32)})
    cache = PictureCache(joined.sizes, 100_000)
    transformed = TransformedDataset(joined, TrainingTransform(), cache=cache)
    for place in range(4):
        first, second = transformed[Pick(place, 5)], transformed[Pick(place, 5)]
        assert first.image_id == second.image_id == joined.image_ids[place]
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.ground_truth.boxes, second.ground_truth.boxes)


def test_sizes_of_the_resized_pictures_are_those_of_the_transform() -> None:
    sizes = np.array([[333, 500], [500, 333], [1001, 2003], [600, 600]], dtype=np.int32)
    kept = smaller_sizes(sizes, 224, 320).tolist()
    assert [tuple(size) for size in kept] == [
        resized_size((h, w), 224, 320) for h, w in sizes.tolist()
    ]
