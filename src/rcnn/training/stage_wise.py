"""Stage-wise training: what is there first, where exactly afterwards (Fast R-CNN, section 5.1).

1. ``1_classes``: a detector without box regression.
2. ``2_boxes``: the box output alone learns, on all the rest of 1, which stays as it is.

Beside multi-task training, in which both learn at once, this tells whether the second task helps
the first (Fast R-CNN, table 6).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.settings import SettingsError
from rcnn.training.module import DetectionModule
from rcnn.training.stage_runner import StageRunner, tensors

BOXES = "detector.regions.head.boxes."


def train_stage_wise(runner: StageRunner, system: str) -> DetectionModule:
    """Train the two steps that are not in the store, and return the detector that they end in.

    Args:
        runner: with numbers of optimiser steps for both.
        system: any with a region stage.

    Raises:
        SettingsError: the detector has no boxes to learn afterwards.
    """
    settings = runner.plan.settings
    if system == "rpn" or not settings.head.box_regression:
        raise SettingsError(
            "scheme='stage_wise' is not possible: it learns the boxes of classified regions at "
            "last. It needs model.head.box_regression=true, and another system than model=rpn."
        )
    classes = replace(settings, head=replace(settings.head, box_regression=False))
    stage = runner.step("1_classes", 0, system=system, weights=runner.plan.weights.source)
    first = runner.train(stage, partial(runner.pretrained, system, classes))
    stage = runner.step("2_boxes", 1, stage)
    last = runner.train(stage, partial(_boxes_on, first, runner, system), kept=_is_rest)
    module = runner.module(system)
    module.load_state_dict(tensors(last))
    return module


def _boxes_on(first: Path, runner: StageRunner, system: str) -> DetectionModule:
    """Return a module with all of the first step, in which the box output alone learns."""
    module = runner.module(system)
    module.load_state_dict(tensors(first), strict=False)
    detector = module.detector
    assert isinstance(detector, FastRCNN | FasterRCNN)
    assert detector.regions.head.boxes is not None
    # At work, so that norms count nothing, and that the boxes learn on what they will be used on.
    detector.requires_grad_(False).eval()
    detector.body.freeze()
    detector.regions.head.boxes.requires_grad_(True).train()
    return module


def _is_rest(name: str) -> bool:
    return not name.startswith(BOXES)
