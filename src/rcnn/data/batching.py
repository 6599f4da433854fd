"""Minibatches: which images, how a worker reads them, and how they become one batch.

Letters: B images of a minibatch, I of the data set, P proposals.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from rcnn.data.augment import Transform
from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.errors import DataError, DataWarning
from rcnn.ops import boxes, images
from rcnn.settings import require
from rcnn.structures import GroundTruth, ImageBatch, Proposals, Targets, TensorFields

# --- which images -----------------------------------------------------------------------------


class SampleIndex(NamedTuple):
    """An image of a minibatch.

    Attributes:
        image: index in the data set.
        seed: seed of everything that is random about the image this time.
        augmented: whether the picture is augmented this time; what is random about every training
            picture (mirroring, size) is not meant.
    """

    image: int
    seed: int
    augmented: bool = True


class AspectGroupedBatchSampler(Sampler[list[SampleIndex]]):
    """Training minibatches: shuffled, of like orientation, equally many on every process.

    Images wider than high and images higher than wide fill separate minibatches, because a mixed
    one is mostly padding. The whole set is shuffled in each epoch before it is grouped, so that an
    image meets other images each time. What is left over of both groups at the end shares the last
    minibatches, and these are filled up with images drawn a second time: no image is missed, all
    minibatches have one size, and each process gets equally many. An epoch depends on (seed, epoch)
    only.

    Args:
        aspect_ratios: width over height of each image.
        batch_size: images on one process.
        seed: zero or positive, the same on all processes.
        rank: number of this process.
        world_size: number of processes.
        group: whether wide and high images are kept apart; without it the shuffled order is cut as
            it comes.
        batches_done: returns how many minibatches this process has behind it, asked for when a
            pass begins (a loader with workers draws ahead); by default those of all passes before.
        repeated: number (or, as a float, fraction) of the first epoch's minibatches that every
            pass repeats, with the same seeds; 0 for passes that are epochs of their own.

    Attributes:
        augmented_batches: number of minibatches of a whole training after which pictures are no
            longer augmented; null: they always are.
    """

    augmented_batches: int | None = None

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
        repeated: int | float = 0,
    ) -> None:
        require(batch_size > 0, "batch_size", batch_size, "at least one image")
        self._wide = (aspect_ratios >= 1) | (not group)
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._batches_done = batches_done
        self._passes = 0
        count = int(repeated * len(self)) if isinstance(repeated, float) else repeated
        self._repeated = max(count, 1) if repeated else None

    def __len__(self) -> int:
        return -(-len(self._wide) // (self._batch_size * self._world_size))

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        if self._batches_done is None:
            return self._next_epoch()
        done = self._batches_done()
        if self._repeated is not None:
            return self._rest_of_epoch(0, done % min(self._repeated, len(self)))
        return self._rest_of_epoch(*divmod(done, len(self)))

    def _next_epoch(self) -> Iterator[list[SampleIndex]]:
        # Counted when the first minibatch is drawn: a loader with workers opens its first pass
        # twice.
        self._passes += 1
        yield from self._rest_of_epoch(0 if self._repeated else self._passes - 1, 0)

    def _rest_of_epoch(self, epoch: int, first: int) -> Iterator[list[SampleIndex]]:
        for_order, for_images = np.random.SeedSequence([self._seed, epoch]).spawn(2)
        seeds = for_images.generate_state(len(self._wide), np.uint64)
        batches = self._batches(np.random.default_rng(for_order))
        own = batches[self._rank :: self._world_size][first : self._repeated]
        for number, batch in enumerate(own, start=epoch * len(self) + first):
            augmented = self.augmented_batches is None or number < self.augmented_batches
            yield [SampleIndex(int(image), int(seeds[image]), augmented) for image in batch]

    def _batches(self, random: np.random.Generator) -> Int[np.ndarray, "batches size"]:
        """Return the minibatches of all processes, ordered by when their last image is drawn."""
        count = len(self) * self._world_size * self._batch_size
        drawn = np.resize(random.permutation(len(self._wide)), count)
        wide = self._wide[drawn]
        full, rest = [], []
        for group in (np.flatnonzero(wide), np.flatnonzero(~wide)):
            end = len(group) - len(group) % self._batch_size
            full.append(group[:end].reshape(-1, self._batch_size))
            rest.append(group[end:])
        batches = np.concatenate([*full, np.concatenate(rest).reshape(-1, self._batch_size)])
        return np.asarray(drawn[batches[np.argsort(batches[:, -1])]])


class EvaluationBatchSampler(Sampler[list[SampleIndex]]):
    """Evaluation minibatches: each image exactly once over all processes, in a fixed order.

    Wide images go first, then high ones, so that at most one minibatch is mixed. The processes
    differ by at most one image; nothing is added to make them equal, because an image scored twice
    would change the result.

    Args:
        aspect_ratios: width over height of each image.
        batch_size: images on one process; the last minibatch may be smaller.
        rank: number of this process.
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
        require(batch_size > 0, "batch_size", batch_size, "at least one image")
        self._indices = np.argsort(aspect_ratios < 1, kind="stable")[rank::world_size]
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch_size)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        for start in range(0, len(self._indices), self._batch_size):
            batch = self._indices[start : start + self._batch_size]
            yield [SampleIndex(int(image), seed=0) for image in batch]


# --- how a worker reads them ------------------------------------------------------------------


class TransformedDataset(Dataset[Sample]):
    """Decodes and transforms what a batch sampler draws.

    Args:
        dataset: the images.
        transform: function of the sample and a generator with the seed that was drawn.
        plain_transform: the one of samples that are not augmented; by default the same.
        substitute: for training under ``on_error=skip``: an image that cannot be decoded is
            replaced by the next one that can, with a ``DataWarning``, so that the minibatch
            keeps its size. In evaluation this must stay off: an image scored twice, or left out,
            would give a number that cannot be compared, so a broken file is an error there.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        transform: Transform,
        plain_transform: Transform | None = None,
        *,
        substitute: bool = False,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.plain_transform = plain_transform or transform
        self.substitute = substitute

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SampleIndex) -> Sample:
        """Return the transformed sample.

        Raises:
            DataError: if the image cannot be decoded and is not to be substituted, or none can.
        """
        transform = self.transform if index.augmented else self.plain_transform
        return transform(self._decoded(index.image), torch.Generator().manual_seed(index.seed))

    def _decoded(self, image: int) -> Sample:
        if not self.substitute:
            return self.dataset[image]
        count = len(self.dataset)
        for candidate in range(image, image + count):
            try:
                return self.dataset[candidate % count]
            except DataError as error:
                warnings.warn(f"{error} The next image replaces it.", DataWarning, stacklevel=2)
        raise DataError(f"None of the {count} images can be decoded.", "empty data set")


# --- how they become one batch ----------------------------------------------------------------


@dataclass(frozen=True)
class DetectionBatch(TensorFields):
    """A minibatch on its way into a detector.

    Attributes:
        images: padded pixels, with proposals where the samples carry some.
        targets: the objects, in pixels of the resized images.
        ground_truths: the objects of each image in original pixels, for scoring; they stay on the
            CPU when the batch moves to a device.
        image_ids: name of each image.
    """

    images: ImageBatch
    targets: Targets
    ground_truths: tuple[GroundTruth, ...]
    image_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[type[DetectionBatch], tuple[Any, ...]]:
        # A worker puts each tensor that it sends into shared memory, which takes a file descriptor
        # for as long as the tensor lives. That is right for pixels; of the many small tensors of a
        # batch, which a metric keeps for a whole split, a process would run out of descriptors.
        fields = dataclasses.fields(self)
        return type(self), tuple(_compact(getattr(self, field.name)) for field in fields)


COMPACT_BYTES = 1 << 16  # tensors up to this size are pickled as bytes


class _Call:
    """The call of a function that takes place when this object is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _compact(value: Any) -> Any:
    """Return what is pickled instead of ``value``, and becomes its equal when it is unpickled."""
    if isinstance(value, Tensor):
        small = value.device.type == "cpu" and value.nbytes <= COMPACT_BYTES
        return _Call(torch.from_numpy, value.numpy()) if small else value
    if isinstance(value, TensorFields):
        fields = dataclasses.fields(value)  # type: ignore[arg-type]
        return _Call(type(value), *(_compact(getattr(value, field.name)) for field in fields))
    return tuple(map(_compact, value)) if isinstance(value, tuple) else value


def collate(samples: Sequence[Sample], multiple: int = 1) -> DetectionBatch:
    """Pad pictures, objects and proposals of several samples to one shape.

    Args:
        samples: at least one.
        multiple: divisor of height and width of the batch, in pixels; the largest stride of a
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
    proposals = [sample.proposals for sample in samples if sample.proposals is not None]
    if 0 < len(proposals) < len(samples):
        without = [sample.image_id for sample in samples if sample.proposals is None]
        raise ValueError(
            f"Images {', '.join(without)} have no proposals while others of the batch have. Every "
            "image needs them, if it is an empty list."
        )
    if proposals:
        batch = dataclasses.replace(batch, proposals=Proposals.pad(proposals, batch.scales))
    ground_truths = tuple(sample.ground_truth for sample in samples)
    scaled = [
        dataclasses.replace(ground_truth, boxes=boxes.scale(ground_truth.boxes, factors))
        for ground_truth, factors in zip(ground_truths, batch.scales, strict=True)
    ]
    return DetectionBatch(
        images=batch,
        targets=Targets.pad(scaled),
        ground_truths=ground_truths,
        image_ids=tuple(sample.image_id for sample in samples),
    )
