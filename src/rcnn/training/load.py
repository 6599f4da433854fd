"""A trained detector from a file, whatever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rcnn.interop import load_torchvision
from rcnn.training.folding import fold_deltas
from rcnn.training.module import DetectionModule


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    torchvision_builder: str | None = None,
    class_names: Sequence[str] | None = None,
    norm_eps: float | None = None,
) -> DetectionModule:
    """Return a module ready to :meth:`~DetectionModule.predict`.

    The box head from a checkpoint gives deltas as they are, see
    :func:`rcnn.training.folding.fold_deltas`; to train on, or to measure losses, read it with
    ``DetectionModule.load_from_checkpoint``. Torchvision's weights stay as they are.

    Args:
        path: a checkpoint of this package, or a state dict of a torchvision Faster R-CNN.
        device: where the module shall be.
        torchvision_builder: the torchvision function whose state dict the file is, such as
            ``fasterrcnn_resnet50_fpn``; null for a checkpoint of this package.
        class_names: of a torchvision state dict's classes, without background; null: COCO's.
        norm_eps: of its batch norms, see :func:`rcnn.interop.load_torchvision`.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    if torchvision_builder is None:
        module = fold_deltas(DetectionModule.load_from_checkpoint(path))
    else:
        detector = load_torchvision(path, torchvision_builder, class_names, norm_eps)
        module = DetectionModule(detector.settings, weights=str(path))
        module.detector.load_state_dict(detector.state_dict())
    return module.to(device).eval()
