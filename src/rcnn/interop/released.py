"""Reads files of torchvision's detectors, such as the released COCO weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import detection, get_model
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.interop.class_names import coco_names
from rcnn.interop.errors import InteropError
from rcnn.interop.layout import COUNT
from rcnn.interop.torchvision import from_torchvision
from rcnn.model.backbones.backbone import freeze_norms
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.settings import nearest

BUILDERS = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
"""Torchvision's builders of a Faster R-CNN that has a counterpart here."""

CLASSIFIER = "roi_heads.box_predictor.cls_score.bias"


def load_torchvision(
    source: str | Path | Mapping[str, Tensor],
    builder: str,
    class_names: Sequence[str] | None = None,
    norm_eps: float | None = None,
) -> FasterRCNN:
    """Return a detector with the weights of a torchvision detector's state dict.

    A file with frozen norms gives frozen norms. No stage is frozen besides (torchvision freezes the
    first ones when it goes on training from such a file).

    Args:
        source: a state dict, or the path of its file, as ``torch.save`` writes it (``.pth``).
        builder: the function of ``torchvision.models.detection`` that builds the model; its
            defaults are the settings, but for the number of classes, which the file tells.
        class_names: see :func:`rcnn.interop.torchvision.from_torchvision`.
        norm_eps: epsilon of the norms, which no state dict holds. Needed where it cannot be known:
            in files of ``fasterrcnn_resnet50_fpn`` with frozen norms, except the released one.
            Torchvision has 0.0 in models that started from its COCO weights, 1e-5 in others.

    Raises:
        InteropError: there is no such file, it holds no state dict, or its tensors are not those of
            the builder's model; the builder is not supported; ``norm_eps`` is needed.
    """
    state = source if isinstance(source, Mapping) else _read(Path(source).expanduser())
    model = _build(state, builder, norm_eps)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise InteropError(f"The state dict does not fit {builder}: {error}") from error
    return from_torchvision(model.eval(), class_names)


def _build(
    state: Mapping[str, Tensor], builder: str, norm_eps: float | None
) -> detection.FasterRCNN:
    """Build torchvision's model with as many classes and with the norms that the weights have."""
    if builder not in BUILDERS:
        raise InteropError(
            f"builder={builder!r} is not supported{nearest(builder, BUILDERS)} "
            f"Supported are {', '.join(BUILDERS)}."
        )
    if CLASSIFIER not in state:
        raise InteropError(
            f"The state dict is not one of a torchvision Faster R-CNN: it has no {CLASSIFIER}, but "
            f"{', '.join(list(state)[:3])} ..."
        )
    rows = len(state[CLASSIFIER])
    model: detection.FasterRCNN = get_model(
        builder, weights=None, weights_backbone=None, num_classes=rows
    )
    frozen = not any(key.endswith(COUNT) for key in state)
    if frozen:
        freeze_norms(model)
    if frozen and builder == "fasterrcnn_resnet50_fpn" and norm_eps is None:
        if rows != len(coco_names()) + 1:
            raise InteropError(
                "norm_eps is needed: the state dict has frozen norms, but does not hold their "
                "epsilon. Torchvision has norm_eps=0.0 in a fasterrcnn_resnet50_fpn that started "
                "from its COCO weights, and norm_eps=1e-5 in one that did not."
            )
        norm_eps = 0.0
    for layer in model.modules():
        if norm_eps is not None and isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d):
            layer.eps = norm_eps
    return model


def _read(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file; of a training checkpoint that of its model."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InteropError(f"There is no file {path}.") from error
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise InteropError(
            f"{path} cannot be read: it is broken, or it holds more than tensors (save "
            f"model.state_dict() alone). The reader says: {error}"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    tensors = isinstance(content, Mapping) and all(
        isinstance(value, Tensor) for value in content.values()
    )
    if not tensors or not content:
        raise InteropError(f"{path} holds no state dict: a mapping from names to tensors.")
    return dict(content)
