"""Where the time of a detector goes, stage by stage (Fast R-CNN, figure 2; Faster R-CNN, table 5).

Every stage is charged with its own time: what lies within another one is subtracted from that.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rcnn.model.backbones import TwoMLPHead
from rcnn.model.build import Detector
from rcnn.model.multiscale import Features
from rcnn.model.roi_heads import RoIHeads
from rcnn.structures import ImageBatch
from rcnn.training.stopwatch import Stopwatch

CONVOLUTIONS, PROPOSALS, POOLING, REST = "convolutions", "proposals", "pooling", "rest"


@dataclass(frozen=True)
class Breakdown:
    """Seconds per image.

    Attributes:
        stages: by name, in the order of the data flow: ``convolutions`` (the backbone), ``proposals``
            (RPN and suppression), ``pooling``, the box head as ``fc6`` and ``fc7`` or, where it is no
            pair of linear layers, as ``box_head``, and the ``rest`` (normalisation, outputs,
            suppression of detections).
    """

    stages: Mapping[str, float]

    @property
    def total(self) -> float:
        """Of all stages."""
        return sum(self.stages.values())


def measure(detector: Detector, batches: Sequence[ImageBatch], repeats: int = 5) -> Breakdown:
    """Detect in every minibatch several times, and return the medians.

    Args:
        detector: in evaluation mode.
        batches: resized images on the detector's device, with proposals if it makes none.
        repeats: how often; a run before them warms up.
    """
    runs = [_run(detector, batches) for _ in range(repeats + 1)][1:]
    images = sum(len(batch.pixels) for batch in batches)
    return Breakdown(
        {
            stage: statistics.median(run.get(stage, 0.0) for run in runs) / images
            for stage in stages(detector)
        }
    )


def stages(detector: Detector) -> list[str]:
    """Return the names of the stages that a detector has."""
    regions = _regions(detector)
    first = [CONVOLUTIONS] if _rpn(detector) is None else [CONVOLUTIONS, PROPOSALS]
    second = [] if regions is None else [POOLING, *_tail_parts(regions)]
    return [*first, *second, REST]


@torch.no_grad()
def _run(detector: Detector, batches: Sequence[ImageBatch]) -> dict[str, float]:
    with ExitStack() as stack:
        watch = Stopwatch(REST, batches[0].pixels.device)
        timed: dict[str, nn.Module] = {CONVOLUTIONS: detector.backbone}
        rpn, regions = _rpn(detector), _regions(detector)
        if rpn is not None:
            # From the RPN to the region stage everything is about proposals.
            begin = partial(_switch, watch, PROPOSALS)
            stack.callback(rpn.register_forward_pre_hook(begin).remove)
        if regions is not None:
            timed |= _tail_parts(regions)
            stack.enter_context(_pooling_charged(regions, watch))
        for name, module in timed.items():
            for handle in _charge(module, name, watch):
                stack.callback(handle.remove)
        for batch in batches:
            detector.detect_batch(batch)
            watch.switch(REST)
    return watch.seconds


def _rpn(detector: Detector) -> nn.Module | None:
    found: nn.Module | None = getattr(detector, "rpn", None)
    return found


def _regions(detector: Detector) -> RoIHeads | None:
    found: RoIHeads | None = getattr(detector, "roi_heads", None)
    return found


def _tail_parts(regions: RoIHeads) -> dict[str, nn.Module]:
    box_head = regions.box_head
    if isinstance(box_head, TwoMLPHead):
        return {"fc6": box_head.fc6, "fc7": box_head.fc7}
    return {"box_head": box_head}


def _charge(module: nn.Module, name: str, watch: Stopwatch) -> Iterator[RemovableHandle]:
    """Charge a module's forward pass to a stage, and what follows to the stage around it."""
    around: list[str] = []

    def begin(_module: nn.Module, _inputs: Any) -> None:
        around.append(watch.switch(name))

    def end(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        watch.switch(around.pop())

    yield module.register_forward_pre_hook(begin)
    yield module.register_forward_hook(end)


@contextmanager
def _pooling_charged(regions: RoIHeads, watch: Stopwatch) -> Iterator[None]:
    """Charge the pooler of the RoI heads."""
    pooler = regions.pooler

    def charged(features: Features, rois: Tensor) -> Tensor:
        around = watch.switch(POOLING)
        pooled = pooler(features, rois)
        watch.switch(REST if around == PROPOSALS else around)
        return pooled

    regions.pooler = charged
    try:
        yield
    finally:
        regions.pooler = pooler


def _switch(watch: Stopwatch, stage: str, _module: nn.Module, _inputs: Any) -> None:
    watch.switch(stage)
