"""Several data sets as one.

Letters: I images of all parts together. Sizes are (height, width).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32, UInt8
from torch import Tensor

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError, Problems
from rcnn.data.samples import Sample
from rcnn.data.strings import PackedStrings
from rcnn.structures import GroundTruth


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

    def truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""
        part, place = self._find(index)
        return self._parts[part].truth(place)

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
