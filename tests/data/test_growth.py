"""Memory over many epochs."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from rcnn.data import (
    AspectGroupedBatchSampler,
    IndexBuilder,
    IndexedDataset,
    Problems,
    Sample,
    TrainingTransform,
    TransformedDataset,
    collate,
)

# In the first epoch workers take what they need, and copies of the Python objects that they share
# with their parent. Afterwards a leak of more than 300 bytes an image passes this bound.
BOUND = 8e6
ROLLUP = Path("/proc/self/smaps_rollup")


class Undecoded(IndexedDataset):
    """Everything of an image but its file."""

    def __getitem__(self, index: int) -> Sample:
        assert self.index.files[index]
        return self.sample(index, torch.zeros(3, 8, 8, dtype=torch.uint8))


def many_images(count: int) -> Undecoded:
    problems = Problems()
    builder = IndexBuilder(["a"], problems, noun="object", show=str)
    for number in range(count):
        image = builder.add_image(f"image-{number:09d}", f"{number:09d}.jpg", (8, 8), "here")
        for side in range(number % 4):
            builder.add_object(image, side, (0.0, 0.0, 1.0 + side, 2.0), 1)
    return Undecoded(
        class_names=["a"],
        index=builder.build(),
        image_folder=Path(),
        problems=problems,
        where="many images",
    )


def memory() -> int:
    """Bytes of this process and its children; what several share is counted once."""
    total = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def memory_after_epochs(epochs: int) -> list[int]:
    """Read a data set over and over with two workers; return the memory after each time."""
    dataset = many_images(8_000)
    loader = DataLoader(
        TransformedDataset(dataset, TrainingTransform(0.5, (8,), 8)),
        batch_sampler=AspectGroupedBatchSampler(dataset.aspect_ratios, 100, seed=0),
        num_workers=2,
        persistent_workers=True,
        collate_fn=partial(collate, multiple=8),
    )
    after = []
    for _ in range(epochs):
        assert sum(map(len, loader)) == len(dataset)
        after.append(memory())
    return after


@pytest.mark.slow
@pytest.mark.skipif(not ROLLUP.is_file(), reason="needs Linux's account of memory")
def test_memory_does_not_grow_with_images_seen() -> None:
    # In a fresh process: what other tests have freed here, workers would copy bit by bit.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        after = pool.submit(memory_after_epochs, 4).result()
    assert after[3] - after[0] < BOUND
