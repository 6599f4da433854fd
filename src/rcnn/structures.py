"""The tensors that travel between the stages of a detector, as frozen dataclasses.

Letters: B images, (H, W) of the padded batch, G ground-truth boxes (padded), A anchors, S sampled
anchors, P proposals and R RoIs per image, K classes, N objects of one image.

Boxes are ``(x1, y1, x2, y2)``, float32, in continuous absolute pixels: a width is ``x2 - x1``.
Sizes are ``(height, width)``. Labels are 0 for background and padding, 1..K for the classes, and -1
for unused slots. What differs in number between images is padded to one shape and carries a mask,
so that a training step has no loop over images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# The type checker of the tests (beartype) understands this, but not typing.Self.
Same = TypeVar("Same", bound="TensorFields")


class TensorFields:
    """Base of the dataclasses here: moves all of their tensors at once."""

    def to(self: Same, device: torch.device | str, non_blocking: bool = False) -> Same:
        """Return a copy with all tensors on ``device``.

        Page-locked tensors move asynchronously, and with ``non_blocking`` all others, too.
        """
        return self._map(
            lambda tensor: tensor.to(device, non_blocking=non_blocking or tensor.is_pinned())
        )

    def pin_memory(self: Same) -> Same:
        """Return a copy with all tensors in page-locked memory, for asynchronous transfers."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self: Same, function: Callable[[Tensor], Tensor]) -> Same:
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changes[field.name] = function(value)
            elif isinstance(value, TensorFields):
                changes[field.name] = value._map(function)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


@dataclass(frozen=True)
class Proposals(TensorFields):
    """Class-agnostic boxes that may hold an object, best first, padded to P per image.

    Attributes:
        boxes: boxes in pixels of the resized images, zeros in unused slots.
        scores: probability of "object", 0 in unused slots.
        valid: which slots are in use.
    """

    boxes: Float[Tensor, "B P 4"]
    scores: Float[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]

    @classmethod
    def pad(cls, given: Sequence[Float[Tensor, "_ 4"]], scales: Float[Tensor, "B 2"]) -> Proposals:
        """Stack the boxes of several images, all with score 1, padded to the largest number.

        Args:
            given: boxes of each image in original pixels, best first.
            scales: resized over original size of each image, as (vertical, horizontal) factors.
        """
        moved = [boxes.to(scales.device) for boxes in given]
        boxes = pad_sequence(moved, batch_first=True) * scales.flip(-1).repeat(1, 2)[:, None, :]
        scores = pad_sequence([one.new_ones(len(one)) for one in moved], batch_first=True)
        return cls(boxes, scores, scores > 0)


@dataclass(frozen=True)
class ImageBatch(TensorFields):
    """Images of one minibatch, resized and padded at the right and bottom, not yet normalised.

    Attributes:
        pixels: RGB, ``uint8`` in 0..255 or floating point in 0..1.
        sizes: (height, width) of each image inside the padding, in pixels.
        original_sizes: (height, width) of each image before it was resized, in pixels.
        proposals: boxes for a detector without RPN, in pixels of the resized images.
        originals: pixels before the images were resized, padded to one shape, for a detector with
            several test scales.
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
    """Ground truth of a minibatch, padded to G boxes.

    Attributes:
        boxes: boxes in pixels of the resized images, zeros in the padding.
        labels: class of each box, 1..K; 0 in the padding and in ignored regions of no known class,
            which are crowds.
        difficult: boxes that are neither trained on nor counted in evaluation (VOC).
        crowd: regions that hold many objects; anchors and RoIs inside them are ignored (COCO).
    """

    boxes: Float[Tensor, "B G 4"]
    labels: Int[Tensor, "B G"]
    difficult: Bool[Tensor, "B G"]
    crowd: Bool[Tensor, "B G"]

    @property
    def is_target(self) -> Bool[Tensor, "B G"]:
        """Which boxes are to be detected: neither padding, nor difficult, nor a crowd."""
        return (self.labels > 0) & ~self.difficult & ~self.crowd

    @classmethod
    def pad(cls, images: Sequence[GroundTruth]) -> Targets:
        """Stack the ground truth of several images, padded to the largest number of boxes."""
        names = [field.name for field in dataclasses.fields(cls)]
        columns = ([getattr(image, name) for image in images] for name in names)
        return cls(*(pad_sequence(column, batch_first=True) for column in columns))


@dataclass(frozen=True)
class GroundTruth(TensorFields):
    """The annotated objects of one image.

    Attributes:
        boxes: boxes in pixels of the image.
        labels: class of each object, 1..K; 0 in ignored regions of no known class, which are
            crowds.
        difficult: objects that are never a target and ignored in evaluation (VOC).
        crowd: regions of many objects (COCO).
        areas: square pixels by which COCO groups objects into small, medium and large: the area of
            the segmentation if the data has one, else of the box.
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
    """The anchors that the RPN is trained on, S per image.

    Attributes:
        indices: indices of the sampled anchors.
        boxes: the sampled anchors.
        labels: 1 for objects, 0 for background, -1 for unused slots.
        deltas: deltas from the anchors to the matched boxes, meaningful where the label is 1.
        matched_boxes: ground-truth box of the largest IoU with each anchor.
    """

    indices: Int[Tensor, "B S"]
    boxes: Float[Tensor, "B S 4"]
    labels: Int[Tensor, "B S"]
    deltas: Float[Tensor, "B S 4"]
    matched_boxes: Float[Tensor, "B S 4"]


@dataclass(frozen=True)
class RoISamples(TensorFields):
    """The RoIs that the box head is trained on, R per image.

    Attributes:
        boxes: the sampled proposals.
        labels: 0 for background, 1..K for the classes, -1 for unused slots.
        deltas: deltas from the RoIs to the matched boxes, meaningful where the label is a class.
        matched_boxes: ground-truth box of the largest IoU with each RoI.
    """

    boxes: Float[Tensor, "B R 4"]
    labels: Int[Tensor, "B R"]
    deltas: Float[Tensor, "B R 4"]
    matched_boxes: Float[Tensor, "B R 4"]


@dataclass(frozen=True)
class Detections(TensorFields):
    """The objects detected in one image, best first.

    Attributes:
        boxes: boxes in pixels of the original image, clipped to it.
        scores: probability of the class, 0..1.
        labels: class of each object, 1..K.
        class_names: names of the classes 1..K.
    """

    boxes: Float[Tensor, "N 4"]
    scores: Float[Tensor, " N"]
    labels: Int[Tensor, " N"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.class_names[label - 1] for label in self.labels.tolist()]


@dataclass(frozen=True)
class SampleCounts(TensorFields):
    """Numbers of sampled anchors and RoIs, over the whole minibatch.

    Attributes:
        rois_foreground: RoIs of a class; None without RoI heads, as the next.
        rois_background: RoIs of background.
        anchors_positive: anchors of objects; None without RPN, as the next.
        anchors_negative: anchors of background.
    """

    rois_foreground: Int[Tensor, ""] | None = None
    rois_background: Int[Tensor, ""] | None = None
    anchors_positive: Int[Tensor, ""] | None = None
    anchors_negative: Int[Tensor, ""] | None = None

    @property
    def named(self) -> dict[str, Int[Tensor, ""]]:
        """The counts that are not None, by name."""
        return {name: count for name, count in vars(self).items() if count is not None}


@dataclass(frozen=True)
class Losses(TensorFields):
    """The weighted terms of the multi-task loss; those of a part that was not trained are None.

    Attributes:
        rpn_objectness: class loss of the RPN.
        rpn_boxes: box loss of the RPN.
        roi_classes: class loss of the RoI heads.
        roi_boxes: box loss of the RoI heads; None without box regression, too.
        counts: numbers of the samples that the terms were computed on.
    """

    rpn_objectness: Float[Tensor, ""] | None = None
    rpn_boxes: Float[Tensor, ""] | None = None
    roi_classes: Float[Tensor, ""] | None = None
    roi_boxes: Float[Tensor, ""] | None = None
    counts: SampleCounts = dataclasses.field(default_factory=SampleCounts)

    @property
    def named(self) -> dict[str, Float[Tensor, ""]]:
        """The terms that are not None, by name."""
        return {name: term for name, term in vars(self).items() if isinstance(term, Tensor)}

    @property
    def total(self) -> Float[Tensor, ""]:
        """Sum of the terms, which is differentiated."""
        return torch.stack(list(self.named.values())).sum()

    def __or__(self, other: Losses) -> Losses:
        """Return the terms and counts of both.

        Raises:
            TypeError: both have the same term.
        """
        counts = SampleCounts(**(self.counts.named | other.counts.named))
        return Losses(**self.named, **other.named, counts=counts)


@dataclass(frozen=True)
class TrainingOutputs:
    """The losses of a training step, and what they were computed on; None for unused parts.

    Attributes:
        losses: terms that are differentiated.
        proposals: boxes that the RoIs were sampled from.
        rois: sampled RoIs.
        anchors: anchors of all levels.
        anchor_samples: sampled anchors.
    """

    losses: Losses
    proposals: Proposals | None = None
    rois: RoISamples | None = None
    anchors: Float[Tensor, "A 4"] | None = None
    anchor_samples: AnchorSamples | None = None


@dataclass(frozen=True)
class EvaluationOutputs:
    """The results of a validation step, from one pass through the backbone.

    Attributes:
        detections: detections of each image, in original pixels; None without RoI heads.
        proposals: boxes that were classified, in pixels of the resized images.
        losses: terms of a training step, without gradients.
    """

    detections: list[Detections] | None
    proposals: Proposals
    losses: Losses
