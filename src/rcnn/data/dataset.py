"""A decoded image with its objects, and data sets of them.

Letters: I images, P proposals of an image, (h, w) of its pixels. Sizes are (height, width).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from rcnn.data.builder import IndexBuilder
from rcnn.data.errors import DataError, Problems
from rcnn.data.images import read_image
from rcnn.data.index import PackedStrings
from rcnn.structures import GroundTruth


@dataclass(frozen=True)
class Sample:
    """One decoded image and what is known of it.

    All coordinates are in pixels of ``original_size``, also after ``image`` was resized: the
    objects stay exactly what the annotation says, and ``rcnn.data.collate`` brings boxes into
    the pixels of the minibatch.

    Attributes:
        image: pixels, RGB.
        ground_truth: the objects.
        image_id: name, unique in its data set.
        original_size: size of the picture in its file, or of what an augmentation made of it.
        proposals: regions for a detector that makes none itself, best first.
        original: pixels before the picture was resized, for a detector with several test scales.
    """

    image: UInt8[Tensor, "3 h w"]
    ground_truth: GroundTruth
    image_id: str
    original_size: tuple[int, int]
    proposals: Float[Tensor, "P 4"] | None = None
    original: UInt8[Tensor, "3 _ _"] | None = None


class DetectionDataset(Dataset[Sample], ABC):
    """Images with boxes; everything but the pixels is known without decoding.

    Attributes:
        class_names: names of the labels 1..K, in that order.
        image_ids: unique names of the images.
        aspect_ratios: width over height of each image.
        problems: what was found when the data set was opened, and what was made of it.
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
        """The size of every image."""

    @abstractmethod
    def ground_truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Decode an image.

        Raises:
            DataError: if its file cannot be decoded.
        """

    def file(self, index: int) -> Path | None:  # noqa: ARG002
        """Return the file of an image; None for a picture that is drawn or lies in memory."""
        return None


class IndexedDataset(DetectionDataset):
    """Image files in a folder, with an ``AnnotationIndex``; the base of all readers of files.

    Args:
        builder: all images and objects.
        where: name of the data set in messages.

    Raises:
        DataError: if there is no image at all, or a box is unsound, as the policy says.
    """

    def __init__(self, builder: IndexBuilder, where: str) -> None:
        self.index = builder.build()
        self.problems = builder.problems
        if len(self.index) == 0:
            kinds = self.problems.kinds.values()
            causes = [f"{row.cases[0].where}: {row.kind}: {row.cases[0].found}." for row in kinds]
            raise DataError(" ".join([f"{where} has no usable image.", *causes]), "empty data set")
        self.problems.warn(where)
        self.class_names = builder.class_names
        self.image_ids = self.index.image_ids
        self.aspect_ratios = self.index.aspect_ratios
        self.image_folder = builder.image_folder
        self._max_pixels = builder.max_pixels

    @property
    def sizes(self) -> Int32[np.ndarray, "I 2"]:
        """The size of every image."""
        return self.index.sizes

    def ground_truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""
        return self.index.ground_truth(range(len(self))[index])

    def __getitem__(self, index: int) -> Sample:
        """Decode an image.

        Raises:
            DataError: if its file cannot be decoded, or has changed its size.
        """
        index = range(len(self))[index]
        size = self.index.size(index)
        file = self.image_folder / self.index.files[index]
        image = read_image(file, size, self._max_pixels)
        return Sample(image, self.ground_truth(index), self.image_ids[index], size)

    def file(self, index: int) -> Path | None:
        """Return the file of an image."""
        return self.image_folder / self.index.files[index]


class JoinedDataset(DetectionDataset):
    """Data sets of the same classes, one after the other.

    Args:
        parts: data sets by name; the name is put before their image ids (``VOC2007/000005``), so
            that these stay unique.

    Attributes:
        parts: the data sets.

    Raises:
        DataError: if there is no part, or the parts have different classes.
    """

    def __init__(self, parts: Mapping[str, DetectionDataset]) -> None:
        if not parts:
            raise DataError("There is no data set to join.", "empty data set")
        first, *others = parts
        for name in others:
            if parts[name].class_names != parts[first].class_names:
                raise DataError.about(
                    "different classes",
                    where=f"{first} and {name}",
                    found=f"{list(parts[first].class_names)} and {list(parts[name].class_names)}",
                    allowed="Joined data sets need the same class names in the same order",
                )
        self.parts = tuple(parts.values())
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.class_names = self.parts[0].class_names
        self.aspect_ratios = np.concatenate([part.aspect_ratios for part in self.parts])
        self._sizes = np.concatenate([part.sizes for part in self.parts])
        self.image_ids = PackedStrings(
            f"{name}/{image_id}" for name, part in parts.items() for image_id in part.image_ids
        )
        self.problems = Problems(self.parts[0].problems.on_error)
        for part in self.parts:
            self.problems.include(part.problems)

    @property
    def sizes(self) -> Int32[np.ndarray, "I 2"]:
        """The size of every image."""
        return self._sizes

    def ground_truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""
        part, position = self._find(index)
        return part.ground_truth(position)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image of one of the parts."""
        part, position = self._find(index)
        return dataclasses.replace(part[position], image_id=self.image_ids[index])

    def file(self, index: int) -> Path | None:
        """Return the file of an image, None if it has none."""
        part, position = self._find(index)
        return part.file(position)

    def _find(self, index: int) -> tuple[DetectionDataset, int]:
        index = range(len(self))[index]
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self.parts[number]
        return part, index - int(self._ends[number]) + len(part)


class SubsetDataset(DetectionDataset):
    """Some images of a data set.

    Args:
        dataset: the data set.
        indices: indices of the images in it, in the order of this one.
    """

    def __init__(self, dataset: DetectionDataset, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.class_names = dataset.class_names
        self.image_ids = [dataset.image_ids[index] for index in self.indices.tolist()]
        self.aspect_ratios = dataset.aspect_ratios[self.indices]
        self.problems = dataset.problems

    @property
    def sizes(self) -> Int32[np.ndarray, "I 2"]:
        """The size of every image."""
        return self.dataset.sizes[self.indices]

    def ground_truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""
        return self.dataset.ground_truth(int(self.indices[index]))

    def __getitem__(self, index: int) -> Sample:
        """Decode an image."""
        return self.dataset[int(self.indices[index])]

    def file(self, index: int) -> Path | None:
        """Return the file of an image, None if it has none."""
        return self.dataset.file(int(self.indices[index]))
