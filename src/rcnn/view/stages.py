"""The stages of a detector as pictures (anchors, proposals, RoIs), legends, and boards of pictures.

Letters: A anchors, N boxes, (h, w) of one picture. Images and pictures are RGB, ``uint8``; no image
is changed. Boxes are in pixels of the image that is drawn on (for the stages of a batch that is the
resized image). Every stage has a legend with its counts below it; a small image is enlarged by a
whole number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from rcnn.view.canvas import Canvas, fit, font, from_pil, to_pil
from rcnn.view.colours import (
    CORRECT,
    IGNORED,
    INK,
    PAPER,
    SCORE_RAMP,
    WRONG,
    Colour,
    class_colour,
    score_colour,
)

LONGEST_PANEL = 800
"""Longest side of a panel of a board, in pixels; larger pictures are made smaller."""


class LegendEntry(NamedTuple):
    """One entry of a legend.

    Attributes:
        text: meaning of the colours.
        colours: colour of each swatch, side by side; several make a scale.
        dashed: whether the swatch looks like a dashed frame.
    """

    text: str
    colours: tuple[Colour, ...]
    dashed: bool = False


def with_legend(
    picture: UInt8[Tensor, "3 h w"], entries: Sequence[LegendEntry]
) -> UInt8[Tensor, "3 h2 w"]:
    """Return the picture above a strip that explains its colours."""
    drawing = to_pil(picture)
    size = max(12, min(18, drawing.width // 50))
    swatch, gap = size, size // 2
    ascent, descent = font(size).getmetrics()
    row = ascent + descent + gap

    x, y = gap, gap
    rows = []
    for entry in entries:
        colours_width = swatch * len(entry.colours) + gap
        line = fit(entry.text, size, drawing.width - 2 * gap - colours_width)
        if x > gap and x + colours_width + line.width > drawing.width - gap:
            x, y = gap, y + row
        rows.append((entry, line, x, y))
        x += colours_width + line.width + 2 * size
    extended = Image.new("RGB", (drawing.width, drawing.height + y + row), PAPER)
    extended.paste(drawing, (0, 0))
    draw = ImageDraw.Draw(extended)
    for entry, line, x, y in rows:
        baseline = drawing.height + y + ascent
        top = baseline - swatch + max(1, size // 8)
        for colour in entry.colours:
            right, bottom = x + swatch - 1, top + swatch - 1
            if entry.dashed:  # a frame with a notch in the middle of each side
                draw.rectangle((x, top, right, bottom), outline=colour, width=swatch // 4)
                start, stop = swatch * 5 // 12, swatch * 7 // 12 - 1
                draw.rectangle((x, top + start, right, top + stop), fill=PAPER)
                draw.rectangle((x + start, top, x + stop, bottom), fill=PAPER)
            else:
                draw.rectangle((x, top, right, bottom), fill=colour)
            x += swatch
        draw.text((x + gap, baseline), line.text, INK, line.letters, anchor="ls")
    return from_pil(extended)


def stage_board(
    panels: Sequence[tuple[str, UInt8[Tensor, "3 _ _"]]], columns: int
) -> UInt8[Tensor, "3 h w"]:
    """Return several pictures as one, in rows of ``columns`` panels of equal size.

    A panel has the largest height and the largest width of the pictures. A smaller picture is
    enlarged until it fills the one or the other, and never distorted.

    Args:
        panels: title and picture of each panel, from left to right, then down.
        columns: most panels in a row.

    Raises:
        ValueError: there is no panel, or not at least one column.
    """
    if not panels or columns < 1:
        raise ValueError(
            f"a board needs at least one panel and one column, got {len(panels)} panels "
            f"and columns={columns}"
        )
    pictures = [to_pil(picture) for _, picture in panels]
    width, height = (max(sides) for sides in zip(*(p.size for p in pictures), strict=True))
    shrink = min(1.0, LONGEST_PANEL / max(width, height))
    width, height = max(1, round(width * shrink)), max(1, round(height * shrink))

    size = max(13, min(24, width // 30))
    gap = max(8, size // 2)
    ascent, descent = font(size).getmetrics()
    title = ascent + descent + gap
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    board_size = (columns * (width + gap) + gap, rows * (title + height + gap) + gap)
    board = Image.new("RGB", board_size, PAPER)
    draw = ImageDraw.Draw(board)
    for index, ((name, _), picture) in enumerate(zip(panels, pictures, strict=True)):
        x = gap + index % columns * (width + gap)
        y = gap + index // columns * (title + height + gap)
        text, letters, _ = fit(name, size, width)
        draw.text((x, y + ascent), text, INK, letters, anchor="ls")
        factor = min(width / picture.width, height / picture.height)
        fitted = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        if fitted != picture.size:
            picture = picture.resize(fitted, Image.Resampling.LANCZOS)
        board.paste(picture, (x, y + title))
    return from_pil(board)


def draw_anchors(
    image: UInt8[Tensor, "3 h w"],
    anchors: Float[Tensor, "A 4"],
    labels: Int[Tensor, " A"],
    limit: int = 24,
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw the targets of the RPN: positive and negative anchors, and the grid of the others.

    Args:
        image: the image.
        anchors: all or some of the anchors; one that sticks out is seen without those sides.
        labels: 1 object, 0 background, -1 takes no part.
        limit: most negative anchors that are drawn, evenly chosen; of the ignored ones only the
            centres are, as dots.
    """
    positive, negative, ignored = (anchors[labels == label] for label in (1, 0, -1))
    centres = (ignored[:, :2] + ignored[:, 2:]) / 2
    canvas = Canvas(image)
    canvas.points(_evenly(torch.unique(centres, dim=0), 2000), IGNORED)
    shown = _evenly(negative, limit)
    for box in shown.tolist():
        canvas.frame(box, WRONG, thin=True)
    for box in positive.tolist():
        canvas.frame(box, CORRECT)
    drawn = "" if len(shown) == len(negative) else f", {len(shown)} of them drawn"
    entries = [
        LegendEntry(f"{len(positive)} positive", (CORRECT,)),
        LegendEntry(f"{len(negative)} negative{drawn}", (WRONG,)),
        LegendEntry(f"{len(ignored)} ignored (centres)", (IGNORED,)),
    ]
    return with_legend(canvas.finish(), entries)


def draw_proposals(
    image: UInt8[Tensor, "3 h w"],
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    limit: int = 50,
) -> UInt8[Tensor, "3 h2 w2"]:
    """Draw the best boxes coloured by their score, the best on top.

    Args:
        image: the image.
        boxes: class-agnostic boxes, in any order.
        scores: probabilities or logits; the colours span the scores that are drawn. A box with a
            score that is not finite is padding, and left out.
        limit: most boxes that are drawn.
    """
    boxes, scores = boxes[scores.isfinite()], scores[scores.isfinite()]
    order = scores.argsort(descending=True, stable=True)[:limit]
    chosen = scores[order].tolist()
    canvas = Canvas(image)
    for box, score in reversed(list(zip(boxes[order].tolist(), chosen, strict=True))):
        spread = chosen[0] - chosen[-1]
        fraction = (score - chosen[-1]) / spread if spread > 0 else 1.0
        canvas.frame(box, score_colour(fraction), thin=fraction < 0.5)
    entries = [LegendEntry(f"the best {len(chosen)} of {len(boxes)} boxes", ())]
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
    """Draw boxes before (dashed) and after the predicted deltas move them.

    Args:
        image: the image.
        before: a handful of anchors or proposals: more make no picture.
        after: the same boxes, moved.
        names: the two in the legend.
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
    """Draw the targets of the box head: the background thin and grey, the classes in colour.

    Args:
        image: the image.
        boxes: the sampled proposals.
        labels: 0 background, 1..K classes, -1 an unused slot, which is not drawn.
    """
    background, foreground = boxes[labels == 0], boxes[labels > 0]
    canvas = Canvas(image)
    for box in background.tolist():
        canvas.frame(box, IGNORED, thin=True)
    for box, label in zip(foreground.tolist(), labels[labels > 0].tolist(), strict=True):
        canvas.frame(box, class_colour(label))
    # Many classes share a colour: each is in the legend once.
    classes = dict.fromkeys(map(class_colour, labels[labels > 0].unique().tolist()))
    entries = [
        LegendEntry(f"{len(foreground)} foreground", tuple(classes)),
        LegendEntry(f"{len(background)} background", (IGNORED,)),
    ]
    return with_legend(canvas.finish(), entries)


def _evenly(rows: Float[Tensor, "N D"], limit: int) -> Float[Tensor, "M D"]:
    """Return at most ``limit`` of the rows, at equal distances: the same picture every time."""
    if len(rows) <= limit:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, limit).round().long()]
