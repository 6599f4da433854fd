"""What a data set of annotated images is to the rest of the package.

Letters: I images. Sizes are (height, width).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from rcnn.data.decoding import read_image
from rcnn.data.errors import DataError, Problems
from rcnn.data.index import AnnotationIndex
from rcnn.data.samples import Sample
from rcnn.structures import GroundTruth


class DetectionDataset(Dataset[Sample], ABC):
    """Images with boxes; everything but the pixels is known without decoding.

    Attributes:
        class_names: the names of the labels 1..K, in that order.
        image_ids: unique names of the images.
        aspect_ratios: width over height of each image.
        problems: what was left out when the data set was opened, and why.
    """

    class_names: tuple[str, ...]
    image_ids: Sequence[str]
    aspect_ratios: Float32[np.ndarray, " I"]
    problems: Problems

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    @abstractmethod
    def sizes(self) -> Int32[np.ndarray, "I 2"]:
        """The size of every image, known without decoding it."""

    @abstractmethod
    def truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Decode an image.

        Raises:
            DataError: if its file cannot be decoded.
        """

    def sample(self, index: int, image: UInt8[Tensor, "3 h w"]) -> Sample:
        """Return an image whose pixels are there already with all that is known of it.

        A data set whose samples carry more than its images, sizes and objects extends this, for
        :class:`rcnn.data.PictureCache` keeps nothing but pixels.

        Args:
            index: of the image.
            image: its pixels, decoded earlier and perhaps resized.
        """
        height, width = self.sizes[index].tolist()
        return Sample(image, self.truth(index), self.image_ids[index], (height, width))


class IndexedDataset(DetectionDataset):
    """Image files in a folder, with an :class:`AnnotationIndex`.

    Args:
        class_names: the names of the labels 1..K.
        index: images and objects.
        image_folder: where ``index.files`` lie.
        problems: what was left out of ``index``.
        where: the name of the whole in messages.

    Raises:
        DataError: if there is no image at all.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        index: AnnotationIndex,
        image_folder: Path,
        problems: Problems,
        where: str,
    ) -> None:
        if len(index) == 0:
            causes = f": {problems.messages[0]}" if problems.messages else "."
            raise DataError(f"{where} has no usable image{causes}", "empty data set")
        problems.warn(where)
        self.class_names = tuple(class_names)
        self.image_ids = index.image_ids
        self.aspect_ratios = index.aspect_ratios
        self.problems = problems
        self.index = index
        self.image_folder = image_folder

    @property
    def sizes(self) -> Int32[np.ndarray, "I 2"]:
        """The size of every image, known without decoding it."""
        return self.index.sizes

    def truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""
        return self.index.truth(range(len(self))[index])

    def __getitem__(self, index: int) -> Sample:
        """Decode an image.

        Raises:
            DataError: if its file cannot be decoded, or has changed its size.
        """
        place = range(len(self))[index]
        file = self.image_folder / self.index.files[place]
        return self.sample(place, read_image(file, self.index.size(place)))
