"""Detections and objects of many images, laid end to end on the CPU.

Letters: B images, D detections and G objects of all images.

This is the form in which they are matched in one go, kept from batch to batch, and gathered from
several processes: one tensor per column and one count per image, nothing ragged.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class FlatDetections:
    """The detections of several images, image after image.

    Attributes:
        boxes: absolute pixels.
        scores: higher is better.
        labels: 1..K.
        counts: how many detections each image has.
    """

    boxes: Float[Tensor, "D 4"]
    scores: Float[Tensor, " D"]
    labels: Int[Tensor, " D"]
    counts: Int[Tensor, " B"]

    @property
    def images(self) -> Int[Tensor, " D"]:
        """The position of the image that each detection belongs to."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    def above(self, min_score: float) -> "FlatDetections":
        """Return those with at least this score; the images stay."""
        return self.where(self.scores >= min_score)

    def where(self, kept: Bool[Tensor, " D"]) -> "FlatDetections":
        """Return the marked ones; the images stay."""
        return FlatDetections(
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            counts=torch.bincount(self.images[kept], minlength=len(self.counts)),
        )


@dataclass(frozen=True)
class FlatObjects:
    """The annotated objects of several images, image after image.

    Attributes:
        boxes: absolute pixels.
        labels: 1..K.
        ignore: neither hit nor miss (difficult in VOC).
        crowd: regions of many objects (COCO).
        areas: square pixels that sort an object into small, medium and large.
        counts: how many objects each image has.
    """

    boxes: Float[Tensor, "G 4"]
    labels: Int[Tensor, " G"]
    ignore: Bool[Tensor, " G"]
    crowd: Bool[Tensor, " G"]
    areas: Float[Tensor, " G"]
    counts: Int[Tensor, " B"]

    @property
    def images(self) -> Int[Tensor, " G"]:
        """The position of the image that each object belongs to."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    @property
    def counted(self) -> Bool[Tensor, " G"]:
        """The objects that have to be found."""
        return ~(self.ignore | self.crowd)
