"""Samples into a minibatch.

Letters: B images, P proposals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Sampler

from rcnn.data.augment import Pick
from rcnn.data.dataset import DetectionBatch, Sample
from rcnn.ops import boxes, images
from rcnn.settings import require
from rcnn.structures import ImageBatch, Proposals, Targets


def collate(samples: Sequence[Sample], multiple: int = 1) -> DetectionBatch:
    """Pad pictures, objects and proposals of several samples to one shape.

    Args:
        samples: at least one.
        multiple: height and width of the batch are multiples of it; the largest stride of a
            feature pyramid.

    Raises:
        ValueError: if only some of the samples carry proposals.
    """
    pixels, sizes = images.pad([sample.image for sample in samples], multiple)
    batch = ImageBatch(
        pixels=pixels,
        sizes=sizes,
        original_sizes=torch.tensor([sample.original_size for sample in samples]),
    )
    originals = [sample.original for sample in samples if sample.original is not None]
    if len(originals) == len(samples):
        batch = dataclasses.replace(batch, originals=images.pad(originals, 1)[0])
    ground_truths = tuple(sample.ground_truth for sample in samples)
    scaled = [
        dataclasses.replace(ground_truth, boxes=boxes.scale(ground_truth.boxes, factors))
        for ground_truth, factors in zip(ground_truths, batch.scales, strict=True)
    ]
    return DetectionBatch(
        images=dataclasses.replace(batch, proposals=_proposals(samples, batch.scales)),
        targets=Targets.pad(scaled),
        ground_truths=ground_truths,
        image_ids=tuple(sample.image_id for sample in samples),
    )


def _proposals(samples: Sequence[Sample], scales: Float[Tensor, "B 2"]) -> Proposals | None:
    """Stack proposals, if there are any."""
    given = [sample.proposals for sample in samples if sample.proposals is not None]
    if not given:
        return None
    if len(given) < len(samples):
        without = [sample.image_id for sample in samples if sample.proposals is None]
        raise ValueError(
            f"Images {', '.join(without)} have no proposals while others of the batch have. Every "
            "image needs them, if it is an empty list."
        )
    return Proposals.pad(given, scales)


class AspectGroupedBatchSampler(Sampler[list[Pick]]):
    """Training batches: shuffled, of like orientation, equally many on every process.

    Images wider than high and images higher than wide fill separate batches, because a mixed one
    is mostly padding. The whole set is shuffled anew each epoch before it is grouped, so that an
    image meets other images each time. What is left over of both groups at the end shares the
    last batches, and these are filled up with images drawn a second time: no image is missed, all
    batches have one size, and each process gets equally many.

    An epoch depends on (seed, epoch) only. Which one a pass belongs to, and where in it the pass
    begins, is asked once, when the pass begins: a loader with workers draws batches ahead, and a
    trainer that resumes would tell too late.

    Args:
        aspect_ratios: width over height of each image.
        batch_size: images on one process.
        seed: zero or positive, the same on all processes.
        rank: of this process.
        world_size: number of processes.
        group: keep wide and high images apart; without it the shuffled order is cut as it comes.
        batches_done: says how many batches this process has behind it; by default those of all
            passes before.
    """

    def __init__(
        self,
        aspect_ratios: Float[np.ndarray, " I"],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        group: bool = True,
        batches_done: Callable[[], int] | None = None,
    ) -> None:
        _require_sharding(batch_size, rank, world_size)
        require(seed >= 0, "seed", seed, "zero or a positive whole number")
        self._wide = (aspect_ratios >= 1) | (not group)
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._batches_done = batches_done
        self._passes = 0

    def __len__(self) -> int:
        return -(-len(self._wide) // (self._batch_size * self._world_size))

    def __iter__(self) -> Iterator[list[Pick]]:
        if self._batches_done is None:
            return self._next_epoch()
        return self._rest_of_epoch(*divmod(self._batches_done(), len(self)))

    def _next_epoch(self) -> Iterator[list[Pick]]:
        # Counted when the first batch is drawn: a loader with workers opens its first pass twice.
        self._passes += 1
        yield from self._rest_of_epoch(self._passes - 1, 0)

    def _rest_of_epoch(self, epoch: int, first: int) -> Iterator[list[Pick]]:
        for_order, for_images = np.random.SeedSequence([self._seed, epoch]).spawn(2)
        seeds = for_images.generate_state(len(self._wide), np.uint64)
        mine = self._batches(np.random.default_rng(for_order))[self._rank :: self._world_size]
        for batch in mine[first:]:
            yield [Pick(int(image), int(seeds[image])) for image in batch]

    def _batches(self, random: np.random.Generator) -> Int[np.ndarray, "batches size"]:
        """Return the batches of all processes in the order in which their last image is drawn."""
        places = len(self) * self._world_size * self._batch_size
        drawn = np.resize(random.permutation(len(self._wide)), places)
        wide = self._wide[drawn]
        full, rest = [], []
        for group in (np.flatnonzero(wide), np.flatnonzero(~wide)):
            end = len(group) - len(group) % self._batch_size
            full.append(group[:end].reshape(-1, self._batch_size))
            rest.append(group[end:])
        batches = np.concatenate([*full, np.concatenate(rest).reshape(-1, self._batch_size)])
        return np.asarray(drawn[batches[np.argsort(batches[:, -1])]])


class EvaluationBatchSampler(Sampler[list[Pick]]):
    """Evaluation batches: each image exactly once over all processes, in a fixed order.

    Wide images go first, then high ones, so that at most one batch is mixed. The processes differ
    by at most one image; nothing is added to make them equal, because an image scored twice would
    change the result.

    Args:
        aspect_ratios: width over height of each image.
        batch_size: images on one process; the last batch may be smaller.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        aspect_ratios: Float[np.ndarray, " I"],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _require_sharding(batch_size, rank, world_size)
        self._indices = np.argsort(aspect_ratios < 1, kind="stable")[rank::world_size]
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch_size)

    def __iter__(self) -> Iterator[list[Pick]]:
        for start in range(0, len(self._indices), self._batch_size):
            batch = self._indices[start : start + self._batch_size]
            yield [Pick(int(image), seed=0) for image in batch]


def _require_sharding(batch_size: int, rank: int, world_size: int) -> None:
    require(batch_size > 0, "batch_size", batch_size, "at least one image")
    require(0 <= rank < world_size, "rank", rank, f"0 up to world_size - 1 = {world_size - 1}")
