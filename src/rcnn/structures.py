"""The tensors that travel between the stages, as frozen dataclasses.

Letters: B images, G ground-truth boxes (padded), P proposals and R RoIs per image, K classes, N
objects of one image.

Boxes are ``(x1, y1, x2, y2)``, float32, continuous absolute pixels: a width is ``x2 - x1``. Sizes
are ``(height, width)``. Labels are 0 for background and padding, 1..K for the classes, and -1 for
"takes no part". Everything ragged is padded to one shape and carries a mask, so that a training
step has no loop over images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

# The type checker of the tests (beartype) understands this, but not typing.Self.
Same = TypeVar("Same", bound="TensorFields")


class TensorFields:
    """Moves every tensor of a dataclass at once."""

    def to(self: Same, device: torch.device | str, non_blocking: bool = False) -> Same:
        """Return a copy whose tensors lie on ``device``; none in page-locked memory waits."""
        return self._map(
            lambda tensor: tensor.to(device, non_blocking=non_blocking or tensor.is_pinned())
        )

    def pin_memory(self: Same) -> Same:
        """Return a copy whose tensors lie in page-locked memory (for asynchronous transfers)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self: Same, function: Any) -> Same:
        changes = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changes[field.name] = function(value)
            elif isinstance(value, TensorFields):
                changes[field.name] = value._map(function)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


@dataclass(frozen=True)
class Proposals(TensorFields):
    """Class-agnostic boxes that may hold an object, best first, padded to P per image."""

    boxes: Float[Tensor, "B P 4"]
    scores: Float[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]

    @classmethod
    def pad(cls, given: Sequence[Float[Tensor, "_ 4"]], scales: Float[Tensor, "B 2"]) -> Proposals:
        """Stack boxes of each image that carry no score but their order; all score 1.

        Args:
            given: in original pixels, best first.
            scales: resized over original size, as (vertical, horizontal) factors.
        """
        stack = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
        moved = [boxes.to(scales.device) for boxes in given]
        boxes = stack(moved) * scales.flip(-1).repeat(1, 2)[:, None, :]
        scores = stack([one.new_ones(len(one)) for one in moved])
        return cls(boxes, scores, scores > 0)


@dataclass(frozen=True)
class ImageBatch(TensorFields):
    """Images of one minibatch, resized and padded at the right and bottom, not yet normalised.

    Attributes:
        pixels: RGB, ``uint8`` in 0..255 or floating point in 0..1.
        sizes: (height, width) of each image inside the padding.
        original_sizes: (height, width) of each image before it was resized.
        proposals: regions for a detector that makes none itself, in pixels of the resized images.
        originals: the pixels before the images were resized, padded to one shape, for a detector
            that looks at other scales, too.
    """

    pixels: Shaped[Tensor, "B 3 H W"]
    sizes: Int[Tensor, "B 2"]
    original_sizes: Int[Tensor, "B 2"]
    proposals: Proposals | None = None
    originals: Shaped[Tensor, "B 3 _ _"] | None = None

    @property
    def scales(self) -> Float[Tensor, "B 2"]:
        """Resized over original size, as (vertical, horizontal) factors."""
        return self.sizes.float() / self.original_sizes.float()


@dataclass(frozen=True)
class Targets(TensorFields):
    """Ground truth of a minibatch, in pixels of the resized images, padded to G boxes.

    Attributes:
        boxes: zeros where there is no object.
        labels: 1..K, 0 where there is no object.
        difficult: objects that are neither learned nor counted (VOC).
        crowd: regions that hold many objects; anchors and RoIs inside them are ignored (COCO).
    """

    boxes: Float[Tensor, "B G 4"]
    labels: Int[Tensor, "B G"]
    difficult: Bool[Tensor, "B G"]
    crowd: Bool[Tensor, "B G"]

    @property
    def is_target(self) -> Bool[Tensor, "B G"]:
        """The objects that the detector has to find."""
        return (self.labels > 0) & ~self.difficult & ~self.crowd

    @classmethod
    def pad(cls, images: Sequence[GroundTruth]) -> Targets:
        """Stack the ground truth of several images, padded to the largest number of boxes."""

        def stack(tensors: list[Tensor]) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)

        return cls(
            boxes=stack([image.boxes for image in images]),
            labels=stack([image.labels for image in images]),
            difficult=stack([image.difficult for image in images]),
            crowd=stack([image.crowd for image in images]),
        )


@dataclass(frozen=True)
class GroundTruth(TensorFields):
    """The annotated objects of one image.

    Attributes:
        boxes: in pixels of the image that they belong to.
        labels: 1..K.
        difficult: neither hit nor miss when scored, never a target (VOC).
        crowd: a region of many objects (COCO).
        areas: square pixels by which COCO sorts objects into small, medium and large; the
            segmentation's where the data has one, else the box's.
    """

    boxes: Float[Tensor, "N 4"]
    labels: Int[Tensor, " N"]
    difficult: Bool[Tensor, " N"]
    crowd: Bool[Tensor, " N"]
    areas: Float[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class AnchorSamples(TensorFields):
    """The anchors that the RPN learns from, S per image.

    Attributes:
        indices: positions in the list of anchors.
        boxes: the anchors at these positions.
        labels: 1 object, 0 background, -1 unused place.
        deltas: regression targets, meaningful where the label is 1.
        matched_boxes: the ground-truth box that each anchor is matched with.
    """

    indices: Int[Tensor, "B S"]
    boxes: Float[Tensor, "B S 4"]
    labels: Int[Tensor, "B S"]
    deltas: Float[Tensor, "B S 4"]
    matched_boxes: Float[Tensor, "B S 4"]


@dataclass(frozen=True)
class RoISamples(TensorFields):
    """The regions that the box head learns from, R per image.

    Attributes:
        boxes: the sampled proposals.
        labels: 0 background, 1..K classes, -1 unused place.
        deltas: normalised regression targets, meaningful where the label is a class.
        matched_boxes: the ground-truth box that each region is matched with.
    """

    boxes: Float[Tensor, "B R 4"]
    labels: Int[Tensor, "B R"]
    deltas: Float[Tensor, "B R 4"]
    matched_boxes: Float[Tensor, "B R 4"]


@dataclass(frozen=True)
class Detections(TensorFields):
    """What was found in one image, best first, in pixels of the original image.

    Attributes:
        boxes: clipped to the image.
        scores: probabilities.
        labels: 1..K.
        class_names: the names of the classes 1..K.
    """

    boxes: Float[Tensor, "N 4"]
    scores: Float[Tensor, " N"]
    labels: Int[Tensor, " N"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.class_names[label - 1] for label in self.labels.tolist()]


@dataclass(frozen=True)
class SampleCounts(TensorFields):
    """How many anchors and RoIs took part in a step, over the whole minibatch."""

    rois_foreground: Int[Tensor, ""] | None = None
    rois_background: Int[Tensor, ""] | None = None
    anchors_positive: Int[Tensor, ""] | None = None
    anchors_negative: Int[Tensor, ""] | None = None

    @property
    def named(self) -> dict[str, Int[Tensor, ""]]:
        """The counts that there are, by name."""
        counts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: count for name, count in counts.items() if count is not None}


@dataclass(frozen=True)
class Losses(TensorFields):
    """The terms of the multi-task loss, weighted: two of the RPN, two of the region stage.

    A detector without RPN, and a step in which only a part learns, has those of that part.
    """

    rpn_objectness: Float[Tensor, ""] | None = None
    rpn_boxes: Float[Tensor, ""] | None = None
    roi_classes: Float[Tensor, ""] | None = None
    roi_boxes: Float[Tensor, ""] | None = None
    counts: SampleCounts = dataclasses.field(default_factory=SampleCounts)

    @property
    def named(self) -> dict[str, Float[Tensor, ""]]:
        """The terms that there are, by name."""
        terms = {
            "rpn_objectness": self.rpn_objectness,
            "rpn_boxes": self.rpn_boxes,
            "roi_classes": self.roi_classes,
            "roi_boxes": self.roi_boxes,
        }
        return {name: term for name, term in terms.items() if term is not None}

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum that is differentiated."""
        return torch.stack(list(self.named.values())).sum()

    def __or__(self, other: Losses) -> Losses:
        """Return the terms and counts of both; no term may stand in both."""
        counts = SampleCounts(**(self.counts.named | other.counts.named))
        return Losses(**self.named, **other.named, counts=counts)


@dataclass(frozen=True)
class TrainingOutputs:
    """What a training step computed on its way to the losses; a part that did not run has none.

    Attributes:
        losses: the terms that are differentiated.
        proposals: what the RoIs were drawn from.
        rois: those that were drawn.
        anchors: of all levels.
        anchor_samples: those that were drawn.
    """

    losses: Losses
    proposals: Proposals | None = None
    rois: RoISamples | None = None
    anchors: Float[Tensor, "A 4"] | None = None
    anchor_samples: AnchorSamples | None = None


@dataclass(frozen=True)
class EvaluationOutputs:
    """What a validation step needs, from one pass through the backbone.

    Attributes:
        detections: of each image, in original pixels; None where only the RPN ran.
        proposals: what they were found among, in pixels of the resized images.
        losses: as a training step would have them, without gradients.
    """

    detections: list[Detections] | None
    proposals: Proposals
    losses: Losses
