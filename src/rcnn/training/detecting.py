"""The settings that concern detection, of which a trained detector may be given others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rcnn.model.postprocess import DetectionLimits
from rcnn.model.settings import DetectorSettings
from rcnn.settings import to_plain

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
