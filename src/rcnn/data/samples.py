"""One image with its objects, and a minibatch of them.

Letters: B images, N objects and P proposals of an image, (h, w) of its pixels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from rcnn.data.transport import light
from rcnn.structures import GroundTruth, ImageBatch, Targets, TensorFields


@dataclass(frozen=True)
class Sample:
    """One decoded image and what is known of it.

    All coordinates are in pixels of ``original_size``, also after ``image`` was resized: a resized
    image is the same picture sampled anew, and the truth stays exactly what the annotation says.
    :func:`rcnn.data.collate` brings boxes into the pixels of the batch. As long as nothing has
    resized the image, the two are the same pixels.

    Attributes:
        image: RGB.
        truth: its objects.
        image_id: unique in its data set.
        original_size: (height, width) of the picture in its file.
        proposals: regions for a detector that makes none itself, best first.
        original: the picture before it was resized, for a detector that looks at several scales.
    """

    image: UInt8[Tensor, "3 h w"]
    truth: GroundTruth
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
        truths: the objects of each image in original pixels, for scoring; they stay on the CPU
            when the batch moves to a device.
        image_ids: of each image.
    """

    images: ImageBatch
    targets: Targets
    truths: tuple[GroundTruth, ...]
    image_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[type[DetectionBatch], tuple[Any, ...]]:
        fields = dataclasses.fields(self)
        return type(self), tuple(light(getattr(self, field.name)) for field in fields)
