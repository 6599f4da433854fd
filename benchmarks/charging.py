"""Charging the time of a detector's functions to stages, ours and torchvision's alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torchvision.models.detection import FasterRCNN as TorchvisionRCNN
from torchvision.models.detection import roi_heads

from rcnn.model import proposal_network
from rcnn.model import roi_heads as region_stage
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.training.stopwatch import Stopwatch

IMAGES, BODY, RPN, PROPOSALS = "images", "backbone", "rpn head", "proposals"
TARGETS, POOLING, TAIL, HEAD = "targets", "pooling", "box_head", "head and losses"
DETECTIONS, BACKWARD, OPTIMISER, REST = "detections", "backward", "optimiser", "rest"

STAGES = (
    *(IMAGES, BODY, RPN, PROPOSALS, TARGETS, POOLING, TAIL, HEAD),
    *(DETECTIONS, BACKWARD, OPTIMISER, REST),
)
"""In the order of the data flow. ``rest`` is what no stage was charged with."""


class Part(NamedTuple):
    """A function that belongs to a stage.

    Attributes:
        owner: what it is looked up on: a module of the network or of Python, or a class.
        name: of the attribute.
        stage: that is charged; what runs inside a part within it is charged to the inner one.
    """

    owner: Any
    name: str
    stage: str


def parts_of(detector: FasterRCNN | TorchvisionRCNN) -> list[Part]:
    """Return the functions of a detector that are charged."""
    return _ours(detector) if isinstance(detector, FasterRCNN) else _theirs(detector)


def _ours(detector: FasterRCNN) -> list[Part]:
    regions = detector.roi_heads
    return [
        Part(detector.images, "batch", IMAGES),
        Part(detector.images, "normalise", IMAGES),
        Part(detector.backbone, "forward", BODY),
        Part(detector.rpn, "forward", RPN),
        Part(detector.anchors, "forward", PROPOSALS),
        Part(detector, "propose", PROPOSALS),
        Part(proposal_network, "sample_anchors", TARGETS),
        Part(proposal_network, "rpn_losses", HEAD),
        Part(regions, "sample", TARGETS),
        Part(region_stage, "pool_rois", POOLING),
        Part(regions.box_head, "forward", TAIL),
        Part(regions.head, "forward", HEAD),
        Part(region_stage, "roi_terms", HEAD),
        Part(region_stage, "roi_losses", HEAD),
        Part(region_stage, "postprocess", DETECTIONS),
    ]


def _theirs(detector: TorchvisionRCNN) -> list[Part]:
    rpn, heads = detector.rpn, detector.roi_heads
    return [
        Part(detector.transform, "forward", IMAGES),
        Part(detector.transform, "postprocess", DETECTIONS),
        Part(detector.backbone, "forward", BODY),
        Part(rpn, "forward", PROPOSALS),
        Part(rpn.head, "forward", RPN),
        Part(rpn, "assign_targets_to_anchors", TARGETS),
        Part(rpn.box_coder, "encode", TARGETS),
        Part(type(rpn.fg_bg_sampler), "__call__", TARGETS),
        Part(rpn, "compute_loss", HEAD),
        Part(heads, "select_training_samples", TARGETS),
        Part(heads.box_roi_pool, "forward", POOLING),
        Part(heads.box_head, "forward", TAIL),
        Part(heads.box_predictor, "forward", HEAD),
        Part(roi_heads, "fastrcnn_loss", HEAD),
        Part(heads, "postprocess_detections", DETECTIONS),
    ]


@contextmanager
def charged(parts: Sequence[Part], watch: Stopwatch) -> Iterator[None]:
    """Charge every call of the parts to their stages."""
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(_replaced(part, watch))
        yield


@contextmanager
def _replaced(part: Part, watch: Stopwatch) -> Iterator[None]:
    own = part.name in vars(part.owner)
    function: Callable[..., Any] = getattr(part.owner, part.name)

    def timed(*arguments: Any, **named: Any) -> Any:
        around = watch.switch(part.stage)
        try:
            return function(*arguments, **named)
        finally:
            watch.switch(around)

    setattr(part.owner, part.name, timed)
    try:
        yield
    finally:
        # A method was found on the class, and is so again.
        if own:
            setattr(part.owner, part.name, function)
        else:
            delattr(part.owner, part.name)
