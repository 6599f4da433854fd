"""Takes over the detectors of torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision.models import detection

from rcnn.interop.class_names import name_classes
from rcnn.interop.errors import InteropError
from rcnn.interop.probe import compare
from rcnn.interop.recognition import recognise_backbone
from rcnn.interop.settings import check_parts, pooled_size, read_settings
from rcnn.interop.transfer import copy_weights
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.settings import SettingsError


def from_torchvision(model: nn.Module, class_names: Sequence[str] | None = None) -> FasterRCNN:
    """Return a detector that finds and learns what a torchvision Faster R-CNN does.

    All settings are read off the model and all weights are copied; it stays as it is. Supported
    backbones are ResNet-18 to 152 and MobileNetV3-Large with a pyramid, and, assembled by the user,
    VGG-16 (C4) with two linear layers behind it and ResNets (C4) with ``layer4`` behind them.

    What has no counterpart: of several values of ``min_size`` only the last, which torchvision
    evaluates with, is taken; leading stages of the backbone that do not learn become
    ``frozen_stages`` and their norms no longer count statistics, whatever else does not learn
    learns again; batch norms have the momentum 0.1. Images go in as numbers in 0..1 for equal
    results; ``uint8`` images are rounded again after resizing.

    Args:
        model: a ``torchvision.models.detection.FasterRCNN``, built by ``fasterrcnn_*_fpn`` or
            assembled from torchvision's own parts.
        class_names: of the classes 1..K; None: COCO's if there are 91 rows, else "class 1" and so
            on. COCO's unused ids are called "N/A 12" and so on, by their id.

    Returns:
        A detector on the model's device and in its mode (training or evaluation).

    Raises:
        InteropError: the model has a part or a setting with no counterpart; the message names it,
            and what is supported.
    """
    if not isinstance(model, detection.FasterRCNN):
        raise InteropError(
            f"A torchvision.models.detection.FasterRCNN is needed, not a {type(model).__name__}."
        )
    check_parts(model)
    size = pooled_size(model.roi_heads.box_roi_pool)
    backbone = recognise_backbone(model, size)
    rows = model.roi_heads.box_predictor.cls_score.out_features
    names = name_classes(class_names, rows)
    try:
        detector = FasterRCNN(read_settings(model, backbone, names))
    except SettingsError as error:
        raise InteropError(f"A setting of the model is not supported: {error}") from error
    copy_weights(model, detector)
    detector.to(next(model.parameters()).device)
    compare(model, detector)
    return detector.train(model.training)
