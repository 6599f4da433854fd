"""The stages of a detector as pictures: anchors, proposals, sampled regions.

Letters: A anchors, N boxes. Images and pictures are RGB, ``uint8``; boxes are in pixels of the
image that is drawn on (for the stages of a batch that is the resized image). Every picture stands
over a legend with its counts; the picture of a small image is enlarged by a whole number.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from rcnn.view.boards import LegendEntry, with_legend
from rcnn.view.canvas import Canvas
from rcnn.view.palette import (
    CORRECT,
    IGNORED,
    SCORE_RAMP,
    WRONG,
    class_colour,
    score_colour,
)


def draw_anchors(
    image: UInt8[Tensor, "3 h w"],
    anchors: Float[Tensor, "A 4"],
    labels: Int[Tensor, " A"],
    limit: int = 24,
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw what the RPN learns from: positive and negative anchors, and the grid of the others.

    Args:
        image: stays as it is.
        anchors: all or some of them; one that sticks out of the image is seen without those sides.
        labels: 1 object, 0 background, -1 takes no part.
        limit: at most so many negative anchors are drawn, evenly chosen; of the ignored ones only
            the centres are, as dots.
    """
    positive, negative, ignored = (anchors[labels == label] for label in (1, 0, -1))
    canvas = Canvas(image)
    canvas.points(_evenly(torch.unique(_centres(ignored), dim=0), 2000), IGNORED)
    shown = _evenly(negative, limit)
    for box in shown.tolist():
        canvas.frame(box, WRONG, thin=True)
    for box in positive.tolist():
        canvas.frame(box, CORRECT)
    drawn = "" if len(shown) == len(negative) else f", {len(shown)} of them drawn"
    return with_legend(
        canvas.finish(),
        [
            LegendEntry(f"{len(positive)} positive", (CORRECT,)),
            LegendEntry(f"{len(negative)} negative{drawn}", (WRONG,)),
            LegendEntry(f"{len(ignored)} ignored (centres)", (IGNORED,)),
        ],
    )


def draw_proposals(
    image: UInt8[Tensor, "3 h w"],
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    limit: int = 50,
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw the best boxes coloured by their score, the best on top.

    Args:
        image: stays as it is.
        boxes: class-agnostic, in any order.
        scores: probabilities or logits; the colours span the scores that are drawn. A box whose
            score is not finite is padding, and left out.
        limit: at most so many are drawn.
    """
    boxes, scores = boxes[scores.isfinite()], scores[scores.isfinite()]
    order = scores.argsort(descending=True, stable=True)[:limit]
    chosen = scores[order].tolist()
    canvas = Canvas(image)
    for box, score in reversed(list(zip(boxes[order].tolist(), chosen, strict=True))):
        spread = chosen[0] - chosen[-1]
        fraction = (score - chosen[-1]) / spread if spread > 0 else 1.0
        canvas.frame(box, score_colour(fraction), thin=fraction < 0.5)
    count = f"the best {len(chosen)} of {len(boxes)} boxes"
    entries = [LegendEntry(count, ())]
    if chosen:
        scale = f"score {chosen[-1]:.2f} to {chosen[0]:.2f}"
        entries.insert(0, LegendEntry(scale, SCORE_RAMP))
    return with_legend(canvas.finish(), entries)


def draw_regression(
    image: UInt8[Tensor, "3 h w"],
    before: Float[Tensor, "N 4"],
    after: Float[Tensor, "N 4"],
    names: tuple[str, str] = ("anchors", "regressed"),
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw boxes as they were (dashed) and as the predicted deltas move them.

    Args:
        image: stays as it is.
        before: a handful of anchors or proposals: more make no picture.
        after: where each of them ends.
        names: what the legend calls the two.
    """
    canvas = Canvas(image)
    for box in before.tolist():
        canvas.frame(box, WRONG, dashed=True)
    for box in after.tolist():
        canvas.frame(box, CORRECT)
    entries = [LegendEntry(names[0], (WRONG,), dashed=True), LegendEntry(names[1], (CORRECT,))]
    return with_legend(canvas.finish(), entries)


def draw_rois(
    image: UInt8[Tensor, "3 h w"], boxes: Float[Tensor, "N 4"], labels: Int[Tensor, " N"]
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw what the box head learns from: the background thin and grey, the classes in colour.

    Args:
        image: stays as it is.
        boxes: the sampled proposals.
        labels: 0 background, 1..K classes, -1 unused place, not drawn.
    """
    background, foreground = boxes[labels == 0], boxes[labels > 0]
    canvas = Canvas(image)
    for box in background.tolist():
        canvas.frame(box, IGNORED, thin=True)
    for box, label in zip(foreground.tolist(), labels[labels > 0].tolist(), strict=True):
        canvas.frame(box, class_colour(label))
    classes = tuple(class_colour(label) for label in labels[labels > 0].unique().tolist())
    entries = [
        LegendEntry(f"{len(foreground)} foreground", classes),
        LegendEntry(f"{len(background)} background", (IGNORED,)),
    ]
    return with_legend(canvas.finish(), entries)


def _centres(boxes: Float[Tensor, "N 4"]) -> Float[Tensor, "N 2"]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _evenly(rows: Float[Tensor, "N D"], limit: int) -> Float[Tensor, "M D"]:
    """At most ``limit`` of the rows, at equal distances: the same picture every time."""
    if len(rows) <= limit:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, limit).round().long()]
