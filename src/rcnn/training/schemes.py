"""Trainings in phases: alternating, unshared and stage-wise.

**Alternating** training is the four phases of Faster R-CNN, section 3.2, each stored as a phase:

1. ``1_rpn``: a proposal network from the pretrained weights.
2. ``2_fast_rcnn``: Fast R-CNN, also from the pretrained weights, on the proposals of 1. The two
   networks share nothing yet; used together they are the paper's "unshared" system.
3. ``3_rpn``: a proposal network on the convolutions of 2, which stay as they are.
4. ``4_fast_rcnn``: the RoI heads of 2 learn on the proposals of 3; the convolutions stay.

The result is one Faster R-CNN: the convolutions of 2, the RPN of 3, the RoI heads of 4.

**Unshared** training is the first two of these phases: two networks.

**Stage-wise** training (Fast R-CNN, section 5.1) learns the classes first, without boxes; then the
box regression alone learns on top of what has been learned, all of which stays.

Joint and exact training are single trainings, see ``rcnn.training.module.Scheme``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rcnn.data.splits import Split
from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.settings import SettingsError
from rcnn.training.module import DetectionModule
from rcnn.training.phases import Phase, PhaseRunner

BACKBONE, RPN, ROI_HEADS = "detector.backbone.", "detector.rpn.", "detector.roi_heads."
BOX_REGRESSION = "detector.roi_heads.box_predictor.bbox_pred."
"""Prefixes in the state dict of a module."""


def train_alternating(runner: PhaseRunner) -> DetectionModule:
    """Train the four phases that are not in the store, and return the network that they end in.

    Args:
        runner: runner with numbers of optimiser steps for all four phases.
    """
    _, fast2 = _train_two_networks(runner)
    rpn3 = runner.training("3_rpn", 2, fast2)
    start = partial(_on_shared_convolutions, runner, "rpn", fast2, BACKBONE)
    runner.train(rpn3, start, kept=_is_shared)
    proposals3 = runner.proposals("3_proposals", rpn3, ["train"])
    runner.propose(proposals3)
    fast4 = runner.training("4_fast_rcnn", 3, proposals3)
    start = partial(_on_shared_convolutions, runner, "fast_rcnn", fast2)
    runner.train(fast4, start, proposals3, kept=_is_shared)
    merged = runner.module("faster_rcnn")
    rpn = runner.tensors(rpn3, RPN)
    merged.load_state_dict(runner.tensors(fast4, BACKBONE) | rpn | runner.tensors(fast4, ROI_HEADS))
    return merged


def train_unshared(runner: PhaseRunner, splits: Sequence[Split]) -> tuple[DetectionModule, Path]:
    """Train the first two phases that are not in the store, and propose for some splits.

    Args:
        runner: runner with numbers of optimiser steps for the first two phases at least.
        splits: splits that will be tested.

    Returns:
        The Fast R-CNN, and the folder of the proposals that it detects among.
    """
    rpn1, fast2 = _train_two_networks(runner)
    module = runner.module("fast_rcnn")
    module.load_state_dict(runner.tensors(fast2))
    return module, runner.propose(runner.proposals("1_test_proposals", rpn1, splits))


def first_phases(runner: PhaseRunner) -> tuple[Phase, Phase, Phase]:
    """Return the phases that alternating and unshared training share: RPN, proposals, detector."""
    weights = {"weights": runner.weights.source}
    rpn1 = runner.training("1_rpn", 0, own=weights)
    proposals1 = runner.proposals("1_proposals", rpn1, ["train"])
    return rpn1, proposals1, runner.training("2_fast_rcnn", 1, proposals1, own=weights)


def _train_two_networks(runner: PhaseRunner) -> tuple[Phase, Phase]:
    rpn1, proposals1, fast2 = first_phases(runner)
    runner.train(rpn1, partial(runner.pretrained, "rpn"))
    runner.propose(proposals1)
    runner.train(fast2, partial(runner.pretrained, "fast_rcnn"), proposals1)
    return rpn1, fast2


def _on_shared_convolutions(
    runner: PhaseRunner, system: str, fast2: Phase, part: str = ""
) -> DetectionModule:
    """Return a module that starts from that part of phase 2 and keeps its convolutions."""
    module = runner.module(system)
    module.load_state_dict(runner.tensors(fast2, part), strict=not part)
    module.detector.backbone.freeze()
    return module


def _is_shared(name: str) -> bool:
    return name.startswith(BACKBONE)


def train_stage_wise(runner: PhaseRunner, system: str) -> DetectionModule:
    """Train the two phases that are not in the store, and return the detector that they end in.

    Args:
        runner: runner with numbers of optimiser steps for both.
        system: name of a system with RoI heads.

    Raises:
        SettingsError: the detector has no boxes to learn afterwards.
    """
    settings = runner.settings
    if system == "rpn" or not settings.box_predictor.box_regression:
        raise SettingsError(
            "scheme='stage_wise' is not possible: its second phase trains the box regression. It "
            "needs model.box_predictor.box_regression=true, and another system than model=rpn."
        )
    classes = replace(settings, box_predictor=replace(settings.box_predictor, box_regression=False))
    own = {"system": system, "weights": runner.weights.source}
    first = runner.training("1_classes", 0, own=own)
    runner.train(first, partial(runner.pretrained, system, classes))
    last = runner.training("2_boxes", 1, first)
    runner.train(last, partial(_boxes_on, first, runner, system), kept=_is_rest)
    module = runner.module(system)
    module.load_state_dict(runner.tensors(last))
    return module


def _boxes_on(first: Phase, runner: PhaseRunner, system: str) -> DetectionModule:
    """Return a module with all of the first phase, in which the box regression alone learns."""
    module = runner.module(system)
    module.load_state_dict(runner.tensors(first), strict=False)
    detector = module.detector
    assert isinstance(detector, FastRCNN | FasterRCNN)
    regression = detector.roi_heads.box_predictor.bbox_pred
    assert regression is not None
    # In evaluation mode norms count nothing, and the boxes learn on the features of a detection.
    detector.requires_grad_(False).eval()
    detector.backbone.freeze()
    regression.requires_grad_(True).train()
    return module


def _is_rest(name: str) -> bool:
    return not name.startswith(BOX_REGRESSION)
