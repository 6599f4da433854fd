"""All settings of a detector in one object: what a checkpoint stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.box_head import HeadSettings
from rcnn.model.losses import LossSettings
from rcnn.model.postprocess import DetectionLimits
from rcnn.model.proposals import ProposalLimits
from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.settings import require, to_plain

Deltas = tuple[float, float, float, float]


@dataclass(frozen=True)
class DeltaSettings:
    """By what the box head's targets are normalised (Fast R-CNN, section 2.3).

    Attributes:
        mean: of (tx, ty, tw, th).
        std: likewise.
        class_means: as measured for each of the classes 1..K, in place of ``mean``.
        class_stds: likewise, in place of ``std``.
    """

    mean: Deltas = (0.0, 0.0, 0.0, 0.0)
    std: Deltas = (0.1, 0.1, 0.2, 0.2)
    class_means: tuple[Deltas, ...] | None = None
    class_stds: tuple[Deltas, ...] | None = None

    def __post_init__(self) -> None:
        require(min(self.std) > 0, "std", self.std, "every value is above 0")
        means, stds = self.class_means, self.class_stds
        both = (means is None) == (stds is None) and len(means or ()) == len(stds or ())
        require(both, "class_stds", stds, f"as many rows as class_means={means!r}")
        smallest = min(map(min, stds or ()), default=1.0)
        require(smallest > 0, "class_stds", stds, "every value is above 0")

    def tables(self, classes: int) -> tuple[Float[Tensor, "K1 4"], Float[Tensor, "K1 4"]]:
        """Return mean and deviation for background and each of ``classes`` classes."""
        means = (self.mean, *(self.class_means or [self.mean] * classes))
        stds = (self.std, *(self.class_stds or [self.std] * classes))
        return torch.tensor(means), torch.tensor(stds)


@dataclass(frozen=True)
class DetectorSettings:
    """A two-stage detector, stage by stage, in the order of the data flow.

    Attributes:
        class_names: of the classes 1..K, in order; background is not among them.
    """

    class_names: tuple[str, ...]
    images: ImageSettings = field(default_factory=ImageSettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    anchors: AnchorSettings = field(default_factory=AnchorSettings)
    rpn: RPNSettings = field(default_factory=RPNSettings)
    anchor_sampling: AnchorSampling = field(default_factory=AnchorSampling)
    proposals: ProposalLimits = field(default_factory=ProposalLimits)
    roi_sampling: RoISampling = field(default_factory=RoISampling)
    deltas: DeltaSettings = field(default_factory=DeltaSettings)
    warp: WarpSettings = field(default_factory=WarpSettings)
    pooling: PoolingSettings = field(default_factory=PoolingSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    losses: LossSettings = field(default_factory=LossSettings)
    detections: DetectionLimits = field(default_factory=DetectionLimits)

    def __post_init__(self) -> None:
        names = self.class_names
        require(len(names) > 0, "class_names", names, "there is at least one class")
        require(len(set(names)) == len(names), "class_names", names, "no name stands twice")
        measured = self.deltas.class_means
        fits = measured is None or (len(measured) == len(names) and not self.head.class_agnostic)
        allowed = "one row for each class, and a head with boxes for each class"
        require(fits, "deltas.class_means", measured, allowed)


Fields = Mapping[str, tuple[str, ...]]

ONLY_DETECTION: Fields = {
    "images": ("test_scales",),
    "proposals": ("before_nms_test", "after_nms_test", "rank_test", "refine_test"),
    "warp": ("chunk",),
    "detections": tuple(entry.name for entry in fields(DetectionLimits)),
}
"""Fields by the part of a detector's settings; what is learned never hangs on them."""

ALSO_TRAINING: Fields = {
    "proposals": ("nms_iou", "min_size", "score", "unique_on_grid"),
    "pooling": ("canonical_size",),
}
"""Fields that choose proposals, and where they are pooled, in training and in detection alike."""


def concerns_detection(part: str, field: str) -> bool:
    """Return whether a trained detector may be given another value of a field."""
    return field in ONLY_DETECTION.get(part, ()) + ALSO_TRAINING.get(part, ())


def learned_with(settings: DetectorSettings) -> dict[str, Any]:
    """Return the settings that something learned hangs on, in their plain form."""
    plain: dict[str, Any] = to_plain(settings)
    for part, names in ONLY_DETECTION.items():
        plain[part] = {key: value for key, value in plain[part].items() if key not in names}
    return plain
