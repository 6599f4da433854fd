"""Transforms of a sample: mirroring and resizing.

Coordinates of a sample stay in pixels of its original size; see ``rcnn.data.Sample``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field, PositiveInt

from rcnn.data.dataset import Sample
from rcnn.ops import boxes, images
from rcnn.settings import Fraction, require, settings

Transform = Callable[[Sample, torch.Generator], Sample]
"""Returns a changed copy of a sample. The generator is seeded for the image and the epoch, so two
calls with the same seed agree."""


def flip(sample: Sample) -> Sample:
    """Return the mirror image, left to right, with its objects and proposals."""
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
    """Return the sample with a resized picture; objects and proposals stay in original pixels.

    Args:
        sample: a sample with a picture of any size.
        shorter_side: length of the shorter side, in pixels, unless the longer one would exceed
            its limit.
        longer_side: largest length of the longer side, in pixels.
        antialias: low-pass filter before shrinking.
    """
    size = images.resized_size(sample.original_size, shorter_side, longer_side)
    return dataclasses.replace(sample, image=images.resize(sample.image, size, antialias))


@settings
class TrainingTransform:
    """Random mirroring and resizing (Fast R-CNN, sections 2.3 and 5.1 to 5.2).

    Attributes:
        flip_probability: probability of mirroring left to right.
        shorter_sides: lengths of the shorter side in pixels; one is drawn for each image.
        longer_side: largest length of the longer side, in pixels.
        antialias: low-pass filter before shrinking.
    """

    flip_probability: Fraction = 0.5
    shorter_sides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (600,)
    longer_side: PositiveInt = 1000
    antialias: bool = True

    def __post_init__(self) -> None:
        _require_longer(self.longer_side, max(self.shorter_sides))

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Draw side and mirroring from ``generator`` and apply them."""
        # Both are drawn always, so that switching one off does not change the other.
        chance = torch.rand((), generator=generator).item()
        choice = int(torch.randint(len(self.shorter_sides), (), generator=generator))
        sample = resized(sample, self.shorter_sides[choice], self.longer_side, self.antialias)
        return flip(sample) if chance < self.flip_probability else sample


@settings
class EvaluationTransform:
    """Resizing to one size.

    Attributes:
        shorter_side: length of the shorter side, in pixels.
        longer_side: largest length of the longer side, in pixels.
        antialias: low-pass filter before shrinking.
        keep_original: whether the sample keeps the pixels of its file as well.
    """

    shorter_side: PositiveInt = 600
    longer_side: PositiveInt = 1000
    antialias: bool = True
    keep_original: bool = False

    def __post_init__(self) -> None:
        _require_longer(self.longer_side, self.shorter_side)

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:  # noqa: ARG002
        """Resize; nothing is drawn from ``generator``."""
        if self.keep_original:
            sample = dataclasses.replace(sample, original=sample.image)
        return resized(sample, self.shorter_side, self.longer_side, self.antialias)


def _require_longer(longer_side: int, shorter_side: int) -> None:
    allowed = f"it should be at least the shorter side, {shorter_side}"
    require(longer_side >= shorter_side, "longer_side", longer_side, allowed)
