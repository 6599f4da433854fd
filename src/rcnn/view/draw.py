"""Detections and ground truth of an image, alone and side by side.

Letters: N boxes. Images and pictures are RGB, ``uint8``. The picture of an image with a shorter
side below 320 pixels is enlarged by a whole number, else it has the size of the image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Int, UInt8
from torch import Tensor

from rcnn.metrics.matching import match_image
from rcnn.structures import Detections, GroundTruth
from rcnn.view.canvas import Canvas
from rcnn.view.colours import CORRECT, IGNORED, MISSED, WRONG, Colour, class_colour
from rcnn.view.stages import LegendEntry, side_by_side, with_legend


class _Mark(NamedTuple):
    """The drawing of one object."""

    box: list[float]
    text: str
    colour: Colour
    dashed: bool = False
    hatched: bool = False


def draw_detections(
    image: UInt8[Tensor, "3 h w"],
    detections: Detections,
    minimum_score: float = 0.5,
    limit: int = 50,
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw boxes with class name and score, one colour per class.

    Args:
        image: the image, which is not changed.
        detections: detections in pixels of the image.
        minimum_score: score below which a detection is left out, 0..1.
        limit: most detections that are drawn, the best ones.

    Raises:
        ValueError: a label has no class name.
    """
    shown = _best(detections, minimum_score, limit)
    colours = [class_colour(label) for label in shown.labels.tolist()]
    return _draw(image, _detection_marks(shown, colours))


def draw_ground_truth(
    image: UInt8[Tensor, "3 h w"], ground_truth: GroundTruth, class_names: Sequence[str]
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw the annotated objects, one colour per class; the ones that do not count in grey.

    Difficult objects are dashed, crowds hatched.

    Raises:
        ValueError: a label has no class name.
    """
    colours = [class_colour(label) for label in ground_truth.labels.tolist()]
    dashed = [False] * len(ground_truth)
    return _draw(image, _object_marks(ground_truth, class_names, colours, dashed))


def draw_comparison(
    image: UInt8[Tensor, "3 h w"],
    detections: Detections,
    ground_truth: GroundTruth,
    minimum_score: float = 0.5,
    minimum_iou: float = 0.5,
    limit: int = 50,
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw ground truth beside detections, coloured by their outcome, with a legend.

    Left: the objects that were found, those that were missed (dashed), and in grey those that do
    not count. Right: the detections that are right, those that are wrong (no object of their class
    at ``minimum_iou``, or one that a better detection found), and in grey those that do not count.

    Args:
        image: the image, which is not changed.
        detections: detections in pixels of the image.
        ground_truth: objects in pixels of the image.
        minimum_score: score below which a detection is left out, and finds nothing, 0..1.
        minimum_iou: overlap at which an object is found, 0..1.
        limit: most detections that take part, the best ones.

    Raises:
        ValueError: a label has no class name.
    """
    shown = _best(detections, minimum_score, limit)
    ground_truth = ground_truth.to("cpu")
    matched = match_image(shown, ground_truth, minimum_iou)
    uncounted = ground_truth.difficult | ground_truth.crowd
    missed = ~matched.found & ~uncounted
    object_colours = [MISSED if lost else CORRECT for lost in missed.tolist()]
    outcomes = zip(matched.true_positive.tolist(), matched.ignored.tolist(), strict=True)
    colours = [CORRECT if right else IGNORED if ignored else WRONG for right, ignored in outcomes]

    left = _object_marks(ground_truth, detections.class_names, object_colours, missed.tolist())
    right = _detection_marks(shown, colours)
    titles = ("Ground truth", f"Detections, score at least {minimum_score:g}")
    picture = side_by_side(_draw(image, left), _draw(image, right), titles)

    entries = [
        LegendEntry(f"{colours.count(CORRECT)} correct", (CORRECT,)),
        LegendEntry(f"{colours.count(WRONG)} wrong", (WRONG,)),
        LegendEntry(f"{int(missed.sum())} missed", (MISSED,), dashed=True),
    ]
    if matched.ignored.any() or uncounted.any():
        entries.append(LegendEntry("does not count", (IGNORED,)))
    return with_legend(picture, entries)


def _best(detections: Detections, minimum_score: float, limit: int) -> Detections:
    """Return the detections that are drawn, the best first, on the CPU."""
    detections = detections.to("cpu")
    order = detections.scores.argsort(descending=True, stable=True)
    order = order[detections.scores[order] >= minimum_score][:limit]
    return dataclasses.replace(
        detections,
        boxes=detections.boxes[order],
        scores=detections.scores[order],
        labels=detections.labels[order],
    )


def _detection_marks(detections: Detections, colours: Sequence[Colour]) -> list[_Mark]:
    names = _names(detections.labels, detections.class_names)
    rows = zip(detections.boxes.tolist(), names, detections.scores.tolist(), colours, strict=True)
    return [_Mark(box, f"{name} {score:.2f}", colour) for box, name, score, colour in rows]


def _object_marks(
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
    for mark in sorted(marks, key=_area, reverse=True):
        if mark.hatched:
            canvas.hatch(mark.box, mark.colour)
        canvas.frame(mark.box, mark.colour, dashed=mark.dashed)
    for mark in marks:
        canvas.label(mark.box, mark.text, mark.colour)
    return canvas.finish()


def _area(mark: _Mark) -> float:
    x1, y1, x2, y2 = mark.box
    return (x2 - x1) * (y2 - y1)


def _names(labels: Int[Tensor, " N"], class_names: Sequence[str]) -> list[str]:
    for label in labels.tolist():
        if not 1 <= label <= len(class_names):
            raise ValueError(
                f"label {label} has no class name: there are {len(class_names)}, for the labels "
                f"1..{len(class_names)}; pass the class names of the data that the labels are from"
            )
    return [class_names[label - 1] for label in labels.tolist()]
