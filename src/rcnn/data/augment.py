"""From a sample as it was read to the one that a detector sees.

Coordinates of a sample stay in pixels of its original size; see :class:`rcnn.data.Sample`.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from rcnn.data.cache import PictureCache
from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.errors import DataError, DataWarning
from rcnn.ops import boxes, images
from rcnn.settings import require

# The generator is seeded for the image and the epoch: two calls with the same one agree. The given
# sample stays as it is, its pixels too: they may lie in a cache.
Transform = Callable[[Sample, torch.Generator], Sample]


def flip(sample: Sample) -> Sample:
    """Mirror picture, objects and proposals left to right."""
    width = float(sample.original_size[1])
    ground_truth = dataclasses.replace(
        sample.ground_truth, boxes=boxes.flip(sample.ground_truth.boxes, width)
    )
    proposals = sample.proposals
    return dataclasses.replace(
        sample,
        image=sample.image.flip(-1),
        ground_truth=ground_truth,
        proposals=None if proposals is None else boxes.flip(proposals, width),
    )


def resized(sample: Sample, shorter_side: int, longer_side: int, antialias: bool = True) -> Sample:
    """Resize the picture; objects and proposals stay in original pixels.

    Args:
        sample: whose picture may have any size.
        shorter_side: what the shorter side becomes, in pixels,
        longer_side: unless the longer one would exceed this.
        antialias: low-pass filter before shrinking.
    """
    size = images.resized_size(sample.original_size, shorter_side, longer_side)
    return dataclasses.replace(sample, image=images.resize(sample.image, size, antialias))


@dataclass(frozen=True)
class TrainingTransform:
    """Random mirroring and resizing (Fast R-CNN, sections 2.3 and 5.1 to 5.2).

    Attributes:
        flip_probability: of mirroring left to right.
        shorter_sides: pixels; one of them is drawn for each image.
        longer_side: pixels that the longer side does not exceed.
        antialias: low-pass filter before shrinking.
    """

    flip_probability: float = 0.5
    shorter_sides: tuple[int, ...] = (600,)
    longer_side: int = 1000
    antialias: bool = True

    def __post_init__(self) -> None:
        require(
            0 <= self.flip_probability <= 1,
            "flip_probability",
            self.flip_probability,
            "a probability, 0 to 1",
        )
        require(
            len(self.shorter_sides) > 0 and min(self.shorter_sides, default=0) > 0,
            "shorter_sides",
            self.shorter_sides,
            "at least one positive number of pixels",
        )
        _require_longer(self.longer_side, max(self.shorter_sides))

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Draw side and mirroring from ``generator`` and apply them."""
        # Both are drawn always, so that switching one off does not change the other.
        chance = torch.rand((), generator=generator).item()
        choice = int(torch.randint(len(self.shorter_sides), (), generator=generator))
        sample = resized(sample, self.shorter_sides[choice], self.longer_side, self.antialias)
        return flip(sample) if chance < self.flip_probability else sample


@dataclass(frozen=True)
class EvaluationTransform:
    """Resizing to one size.

    Attributes:
        shorter_side: pixels.
        longer_side: pixels that the longer side does not exceed.
        antialias: low-pass filter before shrinking.
        keep_original: the sample keeps its picture as it was, too.
    """

    shorter_side: int = 600
    longer_side: int = 1000
    antialias: bool = True
    keep_original: bool = False

    def __post_init__(self) -> None:
        require(
            self.shorter_side > 0, "shorter_side", self.shorter_side, "a positive number of pixels"
        )
        _require_longer(self.longer_side, self.shorter_side)

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:  # noqa: ARG002
        """Resize; nothing is drawn from ``generator``."""
        if self.keep_original:
            sample = dataclasses.replace(sample, original=sample.image)
        return resized(sample, self.shorter_side, self.longer_side, self.antialias)


def _require_longer(longer_side: int, shorter_side: int) -> None:
    require(
        longer_side >= shorter_side,
        "longer_side",
        longer_side,
        f"not less than the shorter side, {shorter_side}",
    )


class Pick(NamedTuple):
    """One place in a batch.

    Attributes:
        image: its index in the data set.
        seed: of everything that is random about it this time.
    """

    image: int
    seed: int


class TransformedDataset(Dataset[Sample]):
    """Decodes and transforms what a batch sampler picks.

    Args:
        dataset: the images.
        transform: called with the sample and a generator seeded by the pick.
        substitute: for training under ``on_error=skip``: an image that cannot be decoded is
            replaced by the next one that can, with a :class:`DataWarning`, so that the batch keeps
            its size. In evaluation this must stay off: an image scored twice, or left out, would
            give a number that cannot be compared, so there a broken file is an error under
            ``skip`` as well. (What can be seen without decoding was left out when the data set
            was opened.)
        cache: keeps pictures of ``dataset``, so that they are decoded once.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        transform: Transform,
        substitute: bool = False,
        cache: PictureCache | None = None,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.substitute = substitute
        self.cache = cache

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, pick: Pick) -> Sample:
        """Return the transformed sample.

        Raises:
            DataError: if the image cannot be decoded and is not to be substituted, or none can.
        """
        generator = torch.Generator().manual_seed(pick.seed)
        return self.transform(self._decoded(pick.image), generator)

    def _decoded(self, index: int) -> Sample:
        count = len(self.dataset)
        for step in range(count if self.substitute else 1):
            try:
                return self._read((index + step) % count)
            except DataError as error:
                if not self.substitute:
                    raise
                warnings.warn(f"{error} The next image takes its place.", DataWarning, stacklevel=2)
        raise DataError(f"None of the {count} images can be decoded.", "empty data set")

    def _read(self, index: int) -> Sample:
        """Return an image from the cache; or from its file, and leave it in the cache."""
        if self.cache is None:
            return self.dataset[index]
        picture = self.cache.get(index)
        if picture is not None:
            return self.dataset.sample(index, picture)
        sample = self.dataset[index]
        return dataclasses.replace(sample, image=self.cache.keep(index, sample.image))
