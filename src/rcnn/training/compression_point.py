"""What a detector weighs, how long it takes and how good it is: a point of a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rcnn.data import DetectionDataset
from rcnn.structures import ImageBatch
from rcnn.training.breakdown import Breakdown, measure
from rcnn.training.compression import Ranks
from rcnn.training.evaluate import evaluate
from rcnn.training.module import DetectionModule


@dataclass(frozen=True)
class Point:
    """A detector at some ranks of fc6 and fc7.

    Attributes:
        ranks: 0 for a whole layer.
        parameters: of the whole detector.
        tail_parameters: those of fc6 and fc7.
        breakdown: seconds per image.
        metrics: by name, such as ``map_50``; empty where nothing was tested.
    """

    ranks: Ranks
    parameters: int
    tail_parameters: int
    breakdown: Breakdown
    metrics: Mapping[str, float]

    @property
    def name(self) -> str:
        """The ranks in short."""
        if not any(self.ranks):
            return "whole"
        return "/".join("whole" if rank == 0 else str(rank) for rank in self.ranks)


def measure_point(
    module: DetectionModule,
    batches: Sequence[ImageBatch],
    dataset: DetectionDataset | None = None,
    *,
    repeats: int = 5,
    workers: int = 2,
) -> Point:
    """Time a module, and test it.

    Args:
        module: in evaluation mode.
        batches: to time, on the module's device, with proposals if the detector makes none.
        dataset: to test on; null for none.
        repeats: of the timing, whose median counts.
        workers: processes that decode and resize images of the data set.
    """
    found = {} if dataset is None else evaluate(module, dataset, workers=workers).metrics
    box_head = module.detector.get_submodule("regions.box_head")
    return Point(
        ranks=module.settings.backbone.ranks or (0, 0),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        tail_parameters=sum(parameter.numel() for parameter in box_head.parameters()),
        breakdown=measure(module.detector, batches, repeats),
        metrics={tag.removeprefix("test/"): value for tag, value in found.items()},
    )
