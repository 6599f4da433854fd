"""One image with its objects, and a minibatch of them.

Letters: B images, N objects and P proposals of an image, (h, w) of its pixels.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from rcnn.data.errors import DataError, Problems
from rcnn.data.images import read_image
from rcnn.data.index import AnnotationIndex, PackedStrings
from rcnn.data.transport import light
from rcnn.structures import GroundTruth, ImageBatch, Targets, TensorFields


@dataclass(frozen=True)
class Sample:
    """One decoded image and what is known of it.

    All coordinates are in pixels of ``original_size``, also after ``image`` was resized: a resized
    image is the same picture sampled anew, and the ground_truth stays exactly what the annotation says.
    :func:`rcnn.data.collate` brings boxes into the pixels of the batch. As long as nothing has
    resized the image, the two are the same pixels.

    Attributes:
        image: RGB.
        ground_truth: its objects.
        image_id: unique in its data set.
        original_size: (height, width) of the picture in its file.
        proposals: regions for a detector that makes none itself, best first.
        original: the picture before it was resized, for a detector that looks at several scales.
    """

    image: UInt8[Tensor, "3 h w"]
    ground_truth: GroundTruth
    image_id: str
    original_size: tuple[int, int]
    proposals: Float[Tensor, "P 4"] | None = None
    original: UInt8[Tensor, "3 _ _"] | None = None


@dataclass(frozen=True)
class DetectionBatch(TensorFields):
    """A minibatch on its way into a detector.

    Attributes:
        images: padded pixels, with proposals where the samples carry some.
        targets: the objects, in pixels of the resized images.
        ground_truths: the objects of each image in original pixels, for scoring; they stay on the CPU
            when the batch moves to a device.
        image_ids: of each image.
    """

    images: ImageBatch
    targets: Targets
    ground_truths: tuple[GroundTruth, ...]
    image_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[type[DetectionBatch], tuple[Any, ...]]:
        fields = dataclasses.fields(self)
        return type(self), tuple(light(getattr(self, field.name)) for field in fields)


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
    def ground_truth(self, index: int) -> GroundTruth:
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
        return Sample(image, self.ground_truth(index), self.image_ids[index], (height, width))


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

    def ground_truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""
        return self.index.ground_truth(range(len(self))[index])

    def __getitem__(self, index: int) -> Sample:
        """Decode an image.

        Raises:
            DataError: if its file cannot be decoded, or has changed its size.
        """
        place = range(len(self))[index]
        file = self.image_folder / self.index.files[place]
        return self.sample(place, read_image(file, self.index.size(place)))


class JoinedDataset(DetectionDataset):
    """Data sets of the same classes, one after the other.

    Args:
        parts: by name; the name goes before the image ids (``VOC2007/000005``), so that they stay
            unique.

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
        self._parts = tuple(parts.values())
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.class_names = self._parts[0].class_names
        self.aspect_ratios = np.concatenate([part.aspect_ratios for part in self._parts])
        self._sizes = np.concatenate([part.sizes for part in self._parts])
        self.image_ids = PackedStrings(
            f"{name}/{image_id}" for name, part in parts.items() for image_id in part.image_ids
        )
        self.problems = Problems(self._parts[0].problems.on_error)
        for part in self._parts:
            self.problems.include(part.problems)

    @property
    def sizes(self) -> Int32[np.ndarray, "I 2"]:
        """The size of every image, known without decoding it."""
        return self._sizes

    def ground_truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""
        part, place = self._find(index)
        return self._parts[part].ground_truth(place)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image of one of the parts."""
        part, place = self._find(index)
        return dataclasses.replace(self._parts[part][place], image_id=self.image_ids[index])

    def sample(self, index: int, image: UInt8[Tensor, "3 h w"]) -> Sample:
        """Return an image whose pixels are there already with all that is known of it."""
        part, place = self._find(index)
        sample = self._parts[part].sample(place, image)
        return dataclasses.replace(sample, image_id=self.image_ids[index])

    def _find(self, index: int) -> tuple[int, int]:
        place = range(len(self))[index]
        part = int(np.searchsorted(self._ends, place, side="right"))
        return part, place - (int(self._ends[part - 1]) if part else 0)
