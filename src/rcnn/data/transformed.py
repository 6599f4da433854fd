"""A data set as a DataLoader's workers see it.

What is random about an image in an epoch hangs on one seed, which the batch sampler derives from
(seed, epoch, index) and hands over together with the index. So a worker keeps no state: it need
not know the epoch, may live through all of them, and the result is the same for any number of
workers.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from rcnn.data.cache import PictureCache
from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError, DataWarning
from rcnn.data.samples import Sample
from rcnn.data.transforms import Transform


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
