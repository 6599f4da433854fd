"""What was found in an image, what is there, and both side by side.

Letters: N boxes. Images and pictures are RGB, ``uint8``. The picture of an image whose shorter
side is below 320 pixels is enlarged by a whole number, else it has the size of the image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int, UInt8
from torch import Tensor

from rcnn.structures import Detections, GroundTruth
from rcnn.view.boards import LegendEntry, side_by_side, with_legend
from rcnn.view.canvas import Canvas
from rcnn.view.outcomes import judge
from rcnn.view.palette import CORRECT, IGNORED, MISSED, WRONG, Colour, class_colour


@dataclass(frozen=True)
class _Mark:
    """How one object is drawn."""

    box: list[float]
    text: str
    colour: Colour
    dashed: bool = False
    hatched: bool = False

    @property
    def area(self) -> float:
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)


def draw_detections(
    image: UInt8[Tensor, "3 h w"],
    detections: Detections,
    minimum_score: float = 0.5,
    limit: int = 50,
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw boxes with class name and score, one colour per class.

    Args:
        image: stays as it is.
        detections: in pixels of the image.
        minimum_score: worse ones are left out.
        limit: at most so many are drawn, the best ones.

    Raises:
        ValueError: a label has no class name.
    """
    shown = _best(detections, minimum_score, limit)
    colours = [class_colour(label) for label in shown.labels.tolist()]
    return _draw(image, _marks_of_detections(shown, colours))


def draw_ground_truth(
    image: UInt8[Tensor, "3 h w"], ground_truth: GroundTruth, class_names: Sequence[str]
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw the annotated objects, one colour per class; the ones that do not count in grey.

    Difficult objects are dashed, crowds hatched.

    Raises:
        ValueError: a label has no class name.
    """
    colours = [class_colour(label) for label in ground_truth.labels.tolist()]
    return _draw(
        image, _marks_of_truth(ground_truth, class_names, colours, [False] * len(ground_truth))
    )


def draw_comparison(
    image: UInt8[Tensor, "3 h w"],
    detections: Detections,
    ground_truth: GroundTruth,
    minimum_score: float = 0.5,
    minimum_iou: float = 0.5,
    limit: int = 50,
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw the ground truth beside the detections, hits and misses by colour, with a legend.

    Left: the objects that were found, those that were missed (dashed), and in grey those that do
    not count. Right: the detections that are right, those that are wrong (no object of their class
    at ``minimum_iou``, or one that a better detection found), and in grey those that do not count.

    Args:
        image: stays as it is.
        detections: in pixels of the image.
        ground_truth: in pixels of the image.
        minimum_score: worse detections are left out, and find nothing.
        minimum_iou: overlap at which an object is found.
        limit: at most so many detections take part, the best ones.

    Raises:
        ValueError: a label has no class name.
    """
    shown = _best(detections, minimum_score, limit)
    ground_truth = ground_truth.to("cpu")
    outcomes = judge(shown, ground_truth, minimum_iou)
    uncounted = ground_truth.difficult | ground_truth.crowd
    missed = ~outcomes.found & ~uncounted
    found_colours = [MISSED if lost else CORRECT for lost in missed.tolist()]
    verdicts = zip(outcomes.correct.tolist(), outcomes.ignored.tolist(), strict=True)
    colours = [CORRECT if right else IGNORED if ignored else WRONG for right, ignored in verdicts]

    left = _marks_of_truth(ground_truth, detections.class_names, found_colours, missed.tolist())
    right = _marks_of_detections(shown, colours)
    titles = ("Ground truth", f"Detections, score at least {minimum_score:g}")
    picture = side_by_side(_draw(image, left), _draw(image, right), titles)

    correct, ignored = int(outcomes.correct.sum()), int(outcomes.ignored.sum())
    entries = [
        LegendEntry(f"{correct} correct", (CORRECT,)),
        LegendEntry(f"{len(shown) - correct - ignored} wrong", (WRONG,)),
        LegendEntry(f"{int(missed.sum())} missed", (MISSED,), dashed=True),
    ]
    if ignored or uncounted.any():
        entries.append(LegendEntry("does not count", (IGNORED,)))
    return with_legend(picture, entries)


def _best(detections: Detections, minimum_score: float, limit: int) -> Detections:
    """The detections that are worth a picture, best first, on the CPU."""
    detections = detections.to("cpu")
    order = detections.scores.argsort(descending=True, stable=True)
    order = order[detections.scores[order] >= minimum_score][:limit]
    return dataclasses.replace(
        detections,
        boxes=detections.boxes[order],
        scores=detections.scores[order],
        labels=detections.labels[order],
    )


def _marks_of_detections(detections: Detections, colours: Sequence[Colour]) -> list[_Mark]:
    names = _names(detections.labels, detections.class_names)
    rows = zip(detections.boxes.tolist(), names, detections.scores.tolist(), colours, strict=True)
    return [_Mark(box, f"{name} {score:.2f}", colour) for box, name, score, colour in rows]


def _marks_of_truth(
    ground_truth: GroundTruth,
    class_names: Sequence[str],
    colours: Sequence[Colour],
    dashed: Sequence[bool],
) -> list[_Mark]:
    marks = []
    names = _names(ground_truth.labels, class_names)
    flags = zip(ground_truth.difficult.tolist(), ground_truth.crowd.tolist(), dashed, strict=True)
    rows = zip(ground_truth.boxes.tolist(), names, colours, flags, strict=True)
    for box, name, colour, (difficult, crowd, interrupted) in rows:
        if crowd:
            marks.append(_Mark(box, f"{name} (crowd)", IGNORED, hatched=True))
        elif difficult:
            marks.append(_Mark(box, f"{name} (difficult)", IGNORED, dashed=True))
        else:
            marks.append(_Mark(box, name, colour, dashed=interrupted))
    return marks


def _draw(image: UInt8[Tensor, "3 h w"], marks: Sequence[_Mark]) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw the objects, the most important one given first."""
    canvas = Canvas(image)
    # Large boxes first: a small one that lies inside a large one stays in sight.
    for mark in sorted(marks, key=lambda mark: mark.area, reverse=True):
        if mark.hatched:
            canvas.hatch(mark.box, mark.colour)
        canvas.frame(mark.box, mark.colour, dashed=mark.dashed)
    for mark in marks:
        canvas.label(mark.box, mark.text, mark.colour)
    return canvas.finish()


def _names(labels: Int[Tensor, " N"], class_names: Sequence[str]) -> list[str]:
    for label in labels.tolist():
        if not 1 <= label <= len(class_names):
            raise ValueError(
                f"label {label} has no class name: there are {len(class_names)}, for the labels "
                f"1..{len(class_names)}; pass the class names of the data that the labels are from"
            )
    return [class_names[label - 1] for label in labels.tolist()]
