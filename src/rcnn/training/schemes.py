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

from dataclasses import replace
from functools import partial
from pathlib import Path

from rcnn.data.splits import Split
from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.settings import SettingsError
from rcnn.training.module import DetectionModule
from rcnn.training.phases import PhaseRunner, tensors

BACKBONE, RPN, ROI_HEADS = "detector.backbone.", "detector.rpn.", "detector.roi_heads."
BOX_REGRESSION = "detector.roi_heads.box_predictor.bbox_pred."
"""Prefixes in the state dict of a module."""


class AlternatingTraining:
    """The phases of alternating training, each of which is trained unless it is in the store.

    Args:
        runner: runner with numbers of optimiser steps for all four phases, or for the first two.
    """

    def __init__(self, runner: PhaseRunner) -> None:
        self.runner = runner
        weights = {"weights": runner.plan.weights.source}
        self.rpn1 = runner.training("1_rpn", 0, own=weights)
        self.proposals1 = runner.proposals("1_proposals", self.rpn1, ["train"])
        self.fast2 = runner.training("2_fast_rcnn", 1, self.proposals1, own=weights)

    def run(self) -> DetectionModule:
        """Train all four phases and return the network that they end in."""
        runner = self.runner
        _, fast2 = self._two_networks()
        phase = runner.training("3_rpn", 2, self.fast2)
        start = partial(self._on_shared_convolutions, "rpn", fast2, BACKBONE)
        rpn3 = runner.train(phase, start, kept=_is_shared)
        phase = runner.proposals("3_proposals", phase, ["train"])
        proposals = runner.propose(phase, rpn3)
        phase = runner.training("4_fast_rcnn", 3, phase)
        start = partial(self._on_shared_convolutions, "fast_rcnn", fast2)
        fast4 = runner.train(phase, start, proposals, kept=_is_shared)
        merged = runner.module("faster_rcnn")
        merged.load_state_dict(
            tensors(fast4, BACKBONE) | tensors(rpn3, RPN) | tensors(fast4, ROI_HEADS)
        )
        return merged

    def run_unshared(self, splits: tuple[Split, ...]) -> tuple[DetectionModule, Path]:
        """Train the first two phases, and propose for the splits that will be tested.

        Returns:
            The Fast R-CNN, and the folder of the proposals that it detects among.
        """
        rpn1, fast2 = self._two_networks()
        proposals = self.runner.proposals("1_test_proposals", self.rpn1, splits)
        module = self.runner.module("fast_rcnn")
        module.load_state_dict(tensors(fast2))
        return module, self.runner.propose(proposals, rpn1)

    def _two_networks(self) -> tuple[Path, Path]:
        runner = self.runner
        rpn1 = runner.train(self.rpn1, partial(runner.pretrained, "rpn"))
        proposals = runner.propose(self.proposals1, rpn1)
        return rpn1, runner.train(self.fast2, partial(runner.pretrained, "fast_rcnn"), proposals)

    def _on_shared_convolutions(self, system: str, fast2: Path, part: str = "") -> DetectionModule:
        """Return a module that starts from that part of phase 2 and keeps its convolutions."""
        module = self.runner.module(system)
        module.load_state_dict(tensors(fast2, part), strict=not part)
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
    settings = runner.plan.settings
    if system == "rpn" or not settings.box_predictor.box_regression:
        raise SettingsError(
            "scheme='stage_wise' is not possible: its second phase trains the box regression. It "
            "needs model.box_predictor.box_regression=true, and another system than model=rpn."
        )
    classes = replace(settings, box_predictor=replace(settings.box_predictor, box_regression=False))
    own = {"system": system, "weights": runner.plan.weights.source}
    phase = runner.training("1_classes", 0, own=own)
    first = runner.train(phase, partial(runner.pretrained, system, classes))
    phase = runner.training("2_boxes", 1, phase)
    last = runner.train(phase, partial(_boxes_on, first, runner, system), kept=_is_rest)
    module = runner.module(system)
    module.load_state_dict(tensors(last))
    return module


def _boxes_on(first: Path, runner: PhaseRunner, system: str) -> DetectionModule:
    """Return a module with all of the first phase, in which the box regression alone learns."""
    module = runner.module(system)
    module.load_state_dict(tensors(first), strict=False)
    detector = module.detector
    assert isinstance(detector, FastRCNN | FasterRCNN)
    assert detector.roi_heads.box_predictor.bbox_pred is not None
    # In evaluation mode norms count nothing, and the boxes learn on the features of a detection.
    detector.requires_grad_(False).eval()
    detector.backbone.freeze()
    detector.roi_heads.box_predictor.bbox_pred.requires_grad_(True).train()
    return module


def _is_rest(name: str) -> bool:
    return not name.startswith(BOX_REGRESSION)
