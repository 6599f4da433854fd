"""A data set whose samples carry stored proposals.

Letters: I images. Sizes are (height, width).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int32, UInt8
from torch import Tensor

from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.stored.store import StoredProposals
from rcnn.structures import GroundTruth


class ProposedDataset(DetectionDataset):
    """The images of a data set with the best of their stored proposals.

    :func:`rcnn.data.stored.attach` makes one after it has checked that the two belong together.

    Args:
        dataset: the images.
        stored: their proposals.
        limit: how many proposals of an image are used at most; all, if None.
    """

    def __init__(
        self, dataset: DetectionDataset, stored: StoredProposals, limit: int | None
    ) -> None:
        self.dataset = dataset
        self.stored = stored
        self.limit = limit
        self.class_names = dataset.class_names
        self.image_ids = dataset.image_ids
        self.aspect_ratios = dataset.aspect_ratios
        self.problems = dataset.problems

    @property
    def sizes(self) -> Int32[np.ndarray, "I 2"]:
        """The size of every image, known without decoding it."""
        return self.dataset.sizes

    def ground_truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""
        return self.dataset.ground_truth(index)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image; its proposals are in pixels of its original size.

        Raises:
            DataError: if the image cannot be decoded.
        """
        return self._proposed(index, self.dataset[index])

    def sample(self, index: int, image: UInt8[Tensor, "3 h w"]) -> Sample:
        """Return an image whose pixels are there already, with its proposals."""
        return self._proposed(index, self.dataset.sample(index, image))

    def _proposed(self, index: int, sample: Sample) -> Sample:
        boxes = self.stored.boxes(self.image_ids[index], self.limit)
        return dataclasses.replace(sample, proposals=boxes)
