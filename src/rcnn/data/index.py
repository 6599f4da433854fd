"""The annotations of a whole data set in flat arrays.

Letters: I images, T objects of all images together. Sizes are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int16, Int32, Int64

from rcnn.data.strings import PackedStrings
from rcnn.structures import GroundTruth


@dataclass(frozen=True)
class AnnotationIndex:
    """Every image and object of a data set, without a Python object for any of them.

    DataLoader workers share arrays with their parent, but copy whatever lists and dictionaries
    they look at, because looking at an object writes its reference count.

    Attributes:
        image_ids: unique names.
        files: image files, relative to the data set's image folder.
        sizes: as annotated, which is as decoded.
        ends: the objects of image i are ``ends[i]`` up to ``ends[i + 1]``.
        boxes: continuous pixels.
        labels: 1..K.
        difficult: see :class:`rcnn.structures.GroundTruth`.
        crowd: likewise.
        areas: likewise.
    """

    image_ids: PackedStrings
    files: PackedStrings
    sizes: Int32[np.ndarray, "I 2"]
    ends: Int64[np.ndarray, " I+1"]
    boxes: Float32[np.ndarray, "T 4"]
    labels: Int16[np.ndarray, " T"]
    difficult: Bool[np.ndarray, " T"]
    crowd: Bool[np.ndarray, " T"]
    areas: Float32[np.ndarray, " T"]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def aspect_ratios(self) -> Float32[np.ndarray, " I"]:
        """Width over height of each image."""
        return np.asarray(self.sizes[:, 1] / self.sizes[:, 0], dtype=np.float32)

    def size(self, image: int) -> tuple[int, int]:
        """Return (height, width) of one image."""
        height, width = self.sizes[image].tolist()
        return height, width

    def truth(self, image: int) -> GroundTruth:
        """Return the objects of one image, as tensors of their own."""
        objects = slice(self.ends[image], self.ends[image + 1])
        return GroundTruth(
            boxes=torch.tensor(self.boxes[objects]),
            labels=torch.tensor(self.labels[objects], dtype=torch.int64),
            difficult=torch.tensor(self.difficult[objects]),
            crowd=torch.tensor(self.crowd[objects]),
            areas=torch.tensor(self.areas[objects]),
        )
