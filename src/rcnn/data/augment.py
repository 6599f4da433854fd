"""Transforms of a sample: augmentation, mirroring and resizing.

The coordinates of a sample are in pixels of its ``original_size``; see ``rcnn.data.Sample``.
Resizing changes the picture only. ``crop``, ``shrink`` and ``paste`` make another original picture:
they take one that was not resized yet, and the result has its own ``original_size``.

Letters: N objects, (h, w) of a picture's pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torchvision.transforms.v2 import functional

from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.errors import DataError
from rcnn.ops import boxes, images
from rcnn.settings import Fraction, PositiveFraction, require, settings
from rcnn.structures import GroundTruth

Transform = Callable[[Sample, torch.Generator], Sample]
"""Returns a changed copy of a sample. The generator is seeded for the image and the epoch, so two
calls with the same seed agree."""

GREY = 128  # what surrounds a picture
MIN_VISIBLE = 0.1  # share of its area below which an object is dropped
MAX_HIDDEN = 0.5  # share of an object that pasted ones may hide
ATTEMPTS = 10  # at finding a window or a position, before the picture is left as it is


# --- settings -----------------------------------------------------------------------------------


@settings
class AugmentSettings:
    """Random changes of the training pictures, with their objects and stored proposals.

    The defaults are the papers': mirroring, and the detector's own size. Of an object that a crop
    cuts off, the visible part remains; with less than a tenth of its area it is dropped.

    Attributes:
        flip: probability of mirroring left to right.
        shorter_sides: lengths of the shorter side in pixels, one of which is drawn for each
            picture; null for the detector's own.
        scale_jitter: smallest and largest factor by which the picture is scaled at a constant size
            of the canvas (Ghiasi et al., Simple Copy-Paste, CVPR 2021: 0.1 to 2.0). A factor above
            1 shows a part of the picture, one below 1 the picture on grey.
        crop: probability of showing a random window of the picture only.
        min_crop: smallest width and height of that window, as fractions of the picture's.
        copy_paste: largest number of objects of another picture that are pasted into this one.
            They are cut out by their boxes, with all that is visible there.
        colour_jitter: largest relative change of brightness, contrast and saturation.
        blur: probability of a Gaussian blur with a standard deviation of up to 2 pixels.
        noise: largest standard deviation of Gaussian noise, in grey levels of 0..255.
        off_for_last: number of epochs at the end of a training in which ``flip`` and
            ``shorter_sides`` alone are in force.
    """

    flip: Fraction = 0.5
    shorter_sides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    scale_jitter: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    crop: Fraction = 0.0
    min_crop: PositiveFraction = 0.5
    copy_paste: NonNegativeInt = 0
    colour_jitter: Fraction = 0.0
    blur: Fraction = 0.0
    noise: NonNegativeFloat = 0.0
    off_for_last: NonNegativeInt = 0

    def __post_init__(self) -> None:
        low, high = self.scale_jitter
        require(low <= high, "scale_jitter", self.scale_jitter, "the smallest factor comes first")

    def plain(self) -> AugmentSettings:
        """Return the settings of the last epochs."""
        return AugmentSettings(self.flip, self.shorter_sides)


# --- transforms ---------------------------------------------------------------------------------


class TrainingTransform:
    """Augmentation, random mirroring and resizing (Fast R-CNN, sections 2.3 and 5.1 to 5.2).

    Args:
        augment: what is random.
        shorter_side: length of the shorter side in pixels, unless ``augment`` has some.
        longer_side: largest length of the longer side, in pixels.
        antialias: low-pass filter before shrinking.
        dataset: pictures that ``copy_paste`` takes objects from.
    """

    def __init__(
        self,
        augment: AugmentSettings,
        shorter_side: int = 600,
        longer_side: int = 1000,
        antialias: bool = True,
        dataset: DetectionDataset | None = None,
    ) -> None:
        self.augment = augment
        self.shorter_sides = augment.shorter_sides or (shorter_side,)
        _require_longer(longer_side, max(self.shorter_sides))
        pastes = augment.copy_paste
        require(not pastes or dataset is not None, "copy_paste", pastes, "it needs a data set")
        self.longer_side = longer_side
        self.antialias = antialias
        self.dataset = dataset

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Draw everything from ``generator`` and apply it."""
        augment = self.augment
        # Both are drawn always and first, so that no other setting changes them.
        chance = torch.rand((), generator=generator).item()
        choice = int(torch.randint(len(self.shorter_sides), (), generator=generator))
        if augment.copy_paste and self.dataset is not None:
            other = self._other(self.dataset, generator)
            sample = _copy_paste(sample, other, augment, generator) if other else sample
        if augment.scale_jitter != (1, 1):
            sample = _jitter_scale(sample, _uniform(*augment.scale_jitter, generator), generator)
        if torch.rand((), generator=generator) < augment.crop:
            height, width = (_uniform(augment.min_crop, 1.0, generator) for _ in range(2))
            sample = _random_crop(sample, height, width, generator)
        sample = resized(sample, self.shorter_sides[choice], self.longer_side, self.antialias)
        sample = dataclasses.replace(sample, image=_distort(sample.image, augment, generator))
        return flip(sample) if chance < augment.flip else sample

    def _other(self, dataset: DetectionDataset, generator: torch.Generator) -> Sample | None:
        """Return a picture to take objects from, or none if it is broken and such are skipped."""
        try:
            return dataset[_integer(0, len(dataset) - 1, generator)]
        except DataError:
            if dataset.problems.on_error != "skip":
                raise
            return None


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


# --- what they are made of ----------------------------------------------------------------------


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


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Return a window of a picture; it may reach beyond the picture, where it is grey.

    Boxes are cut off at the window, and dropped with less than a tenth of their area in it. The
    area of an object shrinks with the visible share of its box.

    Args:
        sample: a sample that was not resized.
        top: first row of the window, in pixels of the picture.
        left: first column.
        height: number of rows.
        width: number of columns.
    """
    old_height, old_width = sample.original_size
    y1, y2 = max(top, 0), min(top + height, old_height)
    x1, x2 = max(left, 0), min(left + width, old_width)
    image = sample.image.new_full((3, height, width), GREY)
    image[:, y1 - top : y2 - top, x1 - left : x2 - left] = sample.image[:, y1:y2, x1:x2]

    def cut(old: Float[Tensor, "N 4"]) -> tuple[Float[Tensor, "N 4"], Float[Tensor, " N"]]:
        """Return the part of each box in the window, and its share of the box's area."""
        moved = old - torch.tensor([left, top, left, top])
        new = boxes.clip(moved[None], torch.tensor([[height, width]]))[0]
        return new, boxes.area(new) / boxes.area(moved)

    new, visible = cut(sample.ground_truth.boxes)
    ground_truth = dataclasses.replace(
        sample.ground_truth, boxes=new, areas=sample.ground_truth.areas * visible
    )
    proposals = sample.proposals
    if proposals is not None:
        new, share = cut(proposals)
        proposals = new[share >= MIN_VISIBLE]
    return dataclasses.replace(
        sample,
        image=image,
        ground_truth=_select(ground_truth, visible >= MIN_VISIBLE),
        original_size=(height, width),
        proposals=proposals,
    )


def shrink(sample: Sample, factor: float) -> Sample:
    """Return a smaller picture with its objects and proposals.

    Args:
        sample: a sample that was not resized.
        factor: new over old side, at most 1.
    """
    height, width = sample.original_size
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    factors = torch.tensor([size[0] / height, size[1] / width])
    ground_truth, proposals = sample.ground_truth, sample.proposals
    return dataclasses.replace(
        sample,
        image=images.resize(sample.image, size),
        ground_truth=dataclasses.replace(
            ground_truth,
            boxes=boxes.scale(ground_truth.boxes, factors),
            areas=ground_truth.areas * factors.prod(),
        ),
        original_size=size,
        proposals=None if proposals is None else boxes.scale(proposals, factors),
    )


def paste(sample: Sample, piece: Sample, top: int, left: int) -> Sample:
    """Return the sample with a smaller picture in it, with the objects and proposals of both.

    Args:
        sample: a sample that was not resized.
        piece: another one, with proposals if ``sample`` has some.
        top: row of the piece's first row, in pixels of the picture; the whole piece lies inside.
        left: column of its first column.
    """
    height, width = piece.original_size
    image = sample.image.clone()
    image[:, top : top + height, left : left + width] = piece.image
    offset = torch.tensor([left, top, left, top])
    old, new = sample.ground_truth, piece.ground_truth
    proposals = sample.proposals
    if proposals is not None and piece.proposals is not None:
        proposals = torch.cat([proposals, piece.proposals + offset])
    return dataclasses.replace(
        sample,
        image=image,
        ground_truth=GroundTruth(
            boxes=torch.cat([old.boxes, new.boxes + offset]),
            labels=torch.cat([old.labels, new.labels]),
            difficult=torch.cat([old.difficult, new.difficult]),
            crowd=torch.cat([old.crowd, new.crowd]),
            areas=torch.cat([old.areas, new.areas]),
        ),
        proposals=proposals,
    )


def _copy_paste(
    sample: Sample, other: Sample, augment: AugmentSettings, generator: torch.Generator
) -> Sample:
    """Paste some objects of another picture where they hide none by more than a half."""
    height, width = sample.original_size
    own = sample.ground_truth.boxes
    pasted = torch.zeros(0, 4)
    candidates = other.ground_truth.boxes[
        ~(other.ground_truth.difficult | other.ground_truth.crowd)
    ]
    order = torch.randperm(len(candidates), generator=generator)
    for index in order[: _integer(0, augment.copy_paste, generator)]:
        x1, y1 = candidates[index, :2].floor().int().tolist()
        x2, y2 = candidates[index, 2:].ceil().int().tolist()
        piece = crop(other, y1, x1, y2 - y1, x2 - x1)
        if torch.rand((), generator=generator) < augment.flip:
            piece = flip(piece)
        for _ in range(ATTEMPTS if y2 - y1 <= height and x2 - x1 <= width else 0):
            top = _integer(0, height - (y2 - y1), generator)
            left = _integer(0, width - (x2 - x1), generator)
            window = torch.tensor([[left, top, left + x2 - x1, top + y2 - y1]]).float()
            windows = torch.cat([pasted, window])
            # Pasted windows share no pixel, so what they hide of an object adds up.
            hidden = boxes.intersection(own, windows).sum(1) / boxes.area(own)
            if (hidden <= MAX_HIDDEN).all() and not boxes.intersection(pasted, window).any():
                sample, pasted = paste(sample, piece, top, left), windows
                break
    return sample


def _jitter_scale(sample: Sample, factor: float, generator: torch.Generator) -> Sample:
    if factor > 1:
        return _random_crop(sample, 1 / factor, 1 / factor, generator)
    height, width = sample.original_size
    smaller = shrink(sample, factor)
    top = _integer(0, height - smaller.original_size[0], generator)
    left = _integer(0, width - smaller.original_size[1], generator)
    return crop(smaller, -top, -left, height, width)


def _random_crop(
    sample: Sample, height_share: float, width_share: float, generator: torch.Generator
) -> Sample:
    """Return a window that keeps at least one object of a picture that has some."""
    old_height, old_width = sample.original_size
    height = max(round(old_height * height_share), 1)
    width = max(round(old_width * width_share), 1)
    for _ in range(ATTEMPTS):
        top = _integer(0, old_height - height, generator)
        left = _integer(0, old_width - width, generator)
        window = crop(sample, top, left, height, width)
        if len(window.ground_truth) or not len(sample.ground_truth):
            return window
    return sample


def _distort(
    image: UInt8[Tensor, "3 h w"], augment: AugmentSettings, generator: torch.Generator
) -> UInt8[Tensor, "3 h w"]:
    """Return a picture with other colours, blur and noise."""
    if augment.colour_jitter:
        low, high = 1 - augment.colour_jitter, 1 + augment.colour_jitter
        image = functional.adjust_brightness(image, _uniform(low, high, generator))
        image = functional.adjust_contrast(image, _uniform(low, high, generator))
        image = functional.adjust_saturation(image, _uniform(low, high, generator))
    if augment.blur and torch.rand((), generator=generator) < augment.blur:
        image = functional.gaussian_blur(image, [9, 9], [_uniform(0.1, 2.0, generator)])
    if augment.noise:
        deviation = _uniform(0.0, augment.noise, generator)
        noisy = image + deviation * torch.randn(image.shape, generator=generator)
        image = noisy.round_().clamp_(0, 255).to(torch.uint8)
    return image


def _select(ground_truth: GroundTruth, kept: Tensor) -> GroundTruth:
    fields = dataclasses.fields(ground_truth)
    return GroundTruth(*(getattr(ground_truth, field.name)[kept] for field in fields))


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Return a whole number from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
