"""Checkpoints of modules without a trainer: loading one to use or train on, and writing one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rcnn.files import whole_file
from rcnn.interop import load_torchvision
from rcnn.training.module import DetectionModule


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    torchvision_builder: str | None = None,
    class_names: Sequence[str] | None = None,
    norm_eps: float | None = None,
) -> DetectionModule:
    """Return a module in evaluation mode, ready to predict and to be trained on.

    Args:
        path: checkpoint of this package, or state dict of a torchvision Faster R-CNN.
        device: device of the module.
        torchvision_builder: name of the torchvision function that builds the detector of the state
            dict, such as ``fasterrcnn_resnet50_fpn``; None for a checkpoint of this package.
        class_names: names of the classes of a torchvision state dict, without background; by
            default COCO's.
        norm_eps: epsilon of its batch norms, see ``rcnn.interop.load_torchvision``.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    if torchvision_builder is None:
        module = DetectionModule.load_from_checkpoint(path)
    else:
        detector = load_torchvision(path, torchvision_builder, class_names, norm_eps)
        module = DetectionModule(detector.settings, weights=str(path))
        module.detector.load_state_dict(detector.state_dict())
    return module.to(device).eval()


def save(module: DetectionModule, path: str | Path) -> None:
    """Write a checkpoint of a module without a trainer, for use and to start from.

    It has no state of an optimiser, so that no interrupted training can go on from it. The file is
    written whole or not at all.
    """
    checkpoint: dict[str, Any] = {
        "pytorch-lightning_version": version("pytorch-lightning"),
        "epoch": 0,
        "global_step": 0,
        "state_dict": module.state_dict(),
    }
    module.on_save_checkpoint(checkpoint)
    with whole_file(path) as partial:
        torch.save(checkpoint, partial)
