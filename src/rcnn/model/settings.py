"""All settings of a detector in one object: what a checkpoint stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor

from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings, normalisation
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.losses import LossSettings
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.settings import require, settings, to_plain

Means = tuple[float, float, float, float]
Deviations = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]


@settings
class DeltaSettings:
    """Normalisation of the RoIs' box targets (Fast R-CNN, section 2.3).

    Attributes:
        mean: mean of (tx, ty, tw, th).
        std: standard deviation of (tx, ty, tw, th).
        class_means: measured means of each of the classes 1..K, in place of ``mean``.
        class_stds: measured deviations of each of the classes 1..K, in place of ``std``.
    """

    mean: Means = (0.0, 0.0, 0.0, 0.0)
    std: Deviations = (0.1, 0.1, 0.2, 0.2)
    class_means: tuple[Means, ...] | None = None
    class_stds: tuple[Deviations, ...] | None = None

    def __post_init__(self) -> None:
        means, stds = self.class_means, self.class_stds
        both = (means is None) == (stds is None) and len(means or ()) == len(stds or ())
        allowed = f"it should have as many rows as class_means={means!r}"
        require(both, "class_stds", stds, allowed)

    def tables(self, classes: int) -> tuple[Float[Tensor, "K1 4"], Float[Tensor, "K1 4"]]:
        """Return mean and deviation for background and each of ``classes`` classes."""
        means = (self.mean, *(self.class_means or [self.mean] * classes))
        stds = (self.std, *(self.class_stds or [self.std] * classes))
        return torch.tensor(means), torch.tensor(stds)


@settings
class DetectorSettings:
    """A two-stage detector, stage by stage, in the order of the data flow.

    ``images.mean`` and ``images.std`` become those of the backbone's pretrained weights where they
    are null. Set them to null, too, when ``replace`` exchanges the backbone.

    Attributes:
        class_names: names of the classes 1..K, in order, without background.
    """

    class_names: Annotated[tuple[str, ...], Field(min_length=1)]
    images: ImageSettings = ImageSettings()
    backbone: BackboneSettings = BackboneSettings()
    anchors: AnchorSettings = AnchorSettings()
    rpn: RPNSettings = RPNSettings()
    anchor_sampling: AnchorSampling = AnchorSampling()
    proposals: ProposalSettings = ProposalSettings()
    roi_sampling: RoISampling = RoISampling()
    deltas: DeltaSettings = DeltaSettings()
    warp: WarpSettings = WarpSettings()
    pooling: PoolingSettings = PoolingSettings()
    box_predictor: BoxPredictorSettings = BoxPredictorSettings()
    losses: LossSettings = LossSettings()
    detections: DetectionSettings = DetectionSettings()

    def __post_init__(self) -> None:
        names = self.class_names
        unique = len(set(names)) == len(names)
        require(unique, "class_names", names, "every name should be different")
        measured, agnostic = self.deltas.class_means, self.box_predictor.class_agnostic
        fits = measured is None or (len(measured) == len(names) and not agnostic)
        allowed = "it should have one row per class, for a box predictor with boxes for each class"
        require(fits, "deltas.class_means", measured, allowed)
        images = self.images
        if images.mean is None or images.std is None:
            mean, std = normalisation(self.backbone)
            if images.channels == "bgr":
                mean, std = mean[::-1], std[::-1]
            images = replace(images, mean=images.mean or mean, std=images.std or std)
            object.__setattr__(self, "images", images)


Fields = Mapping[str, tuple[str, ...]]

ONLY_DETECTION: Fields = {
    "images": ("test_scales",),
    "proposals": ("before_nms_test", "after_nms_test", "ablate_ranking", "ablate_regression"),
    "warp": ("chunk",),
    "detections": tuple(entry.name for entry in fields(DetectionSettings)),
}
"""Fields that only detection depends on, by the part of the detector's settings."""

ALSO_TRAINING: Fields = {
    "proposals": ("nms_iou", "min_size", "score", "dedup_on_feature_grid"),
    "pooling": ("canonical_size",),
}
"""Fields that both training and detection depend on, and that a trained detector may change."""


def may_change_after_training(part: str, key: str) -> bool:
    """Return whether a trained detector may be given another value of a field."""
    return key in ONLY_DETECTION.get(part, ()) + ALSO_TRAINING.get(part, ())


def training_settings(detector: DetectorSettings) -> dict[str, Any]:
    """Return the settings that training depends on, in their plain form."""
    plain: dict[str, Any] = to_plain(detector)
    for part, names in ONLY_DETECTION.items():
        plain[part] = {key: value for key, value in plain[part].items() if key not in names}
    return plain
