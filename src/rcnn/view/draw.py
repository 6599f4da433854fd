"""Detections and ground truth of an image, alone and side by side.

Letters: N boxes. Images and pictures are RGB, ``uint8``. The picture of an image with a shorter
side below 320 pixels is enlarged by a whole number, else it has the size of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from rcnn.metrics import matching
from rcnn.structures import Detections, GroundTruth
from rcnn.view.canvas import Canvas
from rcnn.view.colours import CORRECT, IGNORED, MISSED, WRONG, Colour, class_colour
from rcnn.view.stages import LegendEntry, stage_board, with_legend

OUTCOMES = {
    matching.TRUE_POSITIVE: CORRECT,
    matching.FALSE_POSITIVE: WRONG,
    matching.IGNORED: IGNORED,
}
"""The colour of each outcome of a detection."""


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
    return _draw(image, _detection_marks(shown, map(class_colour, shown.labels.tolist())))


def draw_ground_truth(
    image: UInt8[Tensor, "3 h w"], ground_truth: GroundTruth, class_names: Sequence[str]
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw the annotated objects, one colour per class; the ones that do not count in grey.

    Difficult objects are dashed, crowds and regions of unknown class hatched.

    Raises:
        ValueError: a label has no class name.
    """
    colours = map(class_colour, ground_truth.labels.tolist())
    missed = [False] * len(ground_truth)
    return _draw(image, _object_marks(ground_truth, class_names, colours, missed))


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
    shown, truth = _best(detections, minimum_score, limit), ground_truth.to("cpu")
    outcomes, found = matching.match_image(shown, truth, minimum_iou)
    uncounted = truth.difficult | truth.crowd
    missed = (~found & ~uncounted).tolist()
    object_colours = [MISSED if lost else CORRECT for lost in missed]
    colours = [OUTCOMES[outcome] for outcome in outcomes.tolist()]
    left = _draw(image, _object_marks(truth, detections.class_names, object_colours, missed))
    right = _draw(image, _detection_marks(shown, colours))
    title = f"Detections, score at least {minimum_score:g}"
    picture = stage_board([("Ground truth", left), (title, right)], columns=2)
    entries = [
        LegendEntry(f"{colours.count(CORRECT)} correct", (CORRECT,)),
        LegendEntry(f"{colours.count(WRONG)} wrong", (WRONG,)),
        LegendEntry(f"{sum(missed)} missed", (MISSED,), dashed=True),
    ]
    if IGNORED in colours or uncounted.any():
        entries.append(LegendEntry("does not count", (IGNORED,)))
    return with_legend(picture, entries)


def _best(detections: Detections, minimum_score: float, limit: int) -> Detections:
    """Return the detections that are drawn, the best first, on the CPU."""
    one = detections.to("cpu")
    order = one.scores.argsort(descending=True, stable=True)
    order = order[one.scores[order] >= minimum_score][:limit]
    return Detections(one.boxes[order], one.scores[order], one.labels[order], one.class_names)


def _detection_marks(detections: Detections, colours: Iterable[Colour]) -> list[_Mark]:
    columns = (detections.boxes, detections.labels, detections.scores)
    rows = zip(*(column.tolist() for column in columns), colours, strict=True)
    return [
        _Mark(box, f"{_name(label, detections.class_names)} {score:.2f}", colour)
        for box, label, score, colour in rows
    ]


def _object_marks(
    truth: GroundTruth,
    class_names: Sequence[str],
    colours: Iterable[Colour],
    missed: Iterable[bool],
) -> list[_Mark]:
    marks = []
    columns = (truth.boxes, truth.labels, truth.difficult, truth.crowd)
    rows = zip(*(column.tolist() for column in columns), colours, missed, strict=True)
    for box, label, difficult, crowd, colour, lost in rows:
        if crowd:
            text = f"{_name(label, class_names)} (crowd)" if label else "ignored"
            marks.append(_Mark(box, text, IGNORED, hatched=True))
        elif difficult:
            name = f"{_name(label, class_names)} (difficult)"
            marks.append(_Mark(box, name, IGNORED, dashed=True))
        else:
            marks.append(_Mark(box, _name(label, class_names), colour, dashed=lost))
    return marks


def _name(label: int, class_names: Sequence[str]) -> str:
    if not 1 <= label <= len(class_names):
        raise ValueError(
            f"label {label} has no class name: there are {len(class_names)}, for the labels "
            f"1..{len(class_names)}; pass the class names of the data that the labels are from"
        )
    return class_names[label - 1]


def _draw(image: UInt8[Tensor, "3 h w"], marks: Sequence[_Mark]) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw the objects, the most important one given first."""

    def size(mark: _Mark) -> float:
        x1, y1, x2, y2 = mark.box
        return (x2 - x1) * (y2 - y1)

    canvas = Canvas(image)
    # Large boxes first: a small one that lies inside a large one stays in sight.
    for mark in sorted(marks, key=size, reverse=True):
        if mark.hatched:
            canvas.hatch(mark.box, mark.colour)
        canvas.frame(mark.box, mark.colour, dashed=mark.dashed)
    for mark in marks:
        canvas.label(mark.box, mark.text, mark.colour)
    return canvas.finish()
