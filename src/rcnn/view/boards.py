"""Titles, legends and boards of several pictures.

Letters: (h, w) of one picture. Everything is RGB, ``uint8``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from rcnn.view.palette import INK, PAPER, Colour
from rcnn.view.tensors import from_pil, to_pil
from rcnn.view.text import fit, font

LONGEST_PANEL = 800
"""Panels of a board are made smaller where they are longer than so many pixels."""


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend.

    Attributes:
        text: what it means.
        colours: one swatch for each, side by side: several make a scale.
        dashed: the swatch looks like a dashed frame.
    """

    text: str
    colours: tuple[Colour, ...]
    dashed: bool = False


def with_legend(
    picture: UInt8[Tensor, "3 h w"], entries: Sequence[LegendEntry]
) -> UInt8[Tensor, "3 h2 w"]:
    """Return the picture over a strip that says what its colours mean."""
    drawing = to_pil(picture)
    size = max(12, min(18, drawing.width // 50))
    letters, swatch, gap = font(size), size, size // 2
    ascent, descent = letters.getmetrics()
    row = ascent + descent + gap

    x, y = gap, gap
    places: list[tuple[int, int]] = []
    texts: list[str] = []
    for entry in entries:
        colours_width = swatch * len(entry.colours) + gap
        text = fit(entry.text, letters, drawing.width - 2 * gap - colours_width)
        width = colours_width + math.ceil(letters.getlength(text))
        if x > gap and x + width > drawing.width - gap:
            x, y = gap, y + row
        places.append((x, y))
        texts.append(text)
        x += width + 2 * size
    sheet = Image.new("RGB", (drawing.width, drawing.height + y + row), PAPER)
    sheet.paste(drawing, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for entry, text, (x, y) in zip(entries, texts, places, strict=True):
        baseline = drawing.height + y + ascent
        top = baseline - swatch + max(1, size // 8)
        for colour in entry.colours:
            _swatch(draw, (x, top), swatch, colour, entry.dashed)
            x += swatch
        draw.text((x + gap, baseline), text, INK, letters, anchor="ls")
    return from_pil(sheet)


def side_by_side(
    left: UInt8[Tensor, "3 h w"], right: UInt8[Tensor, "3 h2 w2"], titles: tuple[str, str]
) -> UInt8[Tensor, "3 h3 w3"]:
    """Return two pictures as one, each under its title."""
    return stage_board([(titles[0], left), (titles[1], right)], columns=2)


def stage_board(
    panels: Sequence[tuple[str, UInt8[Tensor, "3 _ _"]]], columns: int
) -> UInt8[Tensor, "3 h w"]:
    """Return several pictures as one, in rows of ``columns`` panels of equal size.

    A panel has the largest height and the largest width of the pictures. A smaller picture is
    enlarged until it fills the one or the other, and never distorted.

    Args:
        panels: title and picture, from left to right, then down.
        columns: panels in a row, where there are that many.

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
    width, height = round(width * shrink), round(height * shrink)

    size = max(13, min(24, width // 30))
    letters, gap = font(size), max(8, size // 2)
    ascent, descent = letters.getmetrics()
    title = ascent + descent + gap
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    sheet_size = (columns * (width + gap) + gap, rows * (title + height + gap) + gap)
    sheet = Image.new("RGB", sheet_size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, ((text, _), picture) in enumerate(zip(panels, pictures, strict=True)):
        x = gap + index % columns * (width + gap)
        y = gap + index // columns * (title + height + gap)
        draw.text((x, y + ascent), fit(text, letters, width), INK, letters, anchor="ls")
        factor = min(width / picture.width, height / picture.height)
        fitted = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        if fitted != picture.size:
            picture = picture.resize(fitted, Image.Resampling.LANCZOS)
        sheet.paste(picture, (x, y + title))
    return from_pil(sheet)


def _swatch(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], side: int, colour: Colour, dashed: bool
) -> None:
    x, y = place
    draw.rectangle((x, y, x + side - 1, y + side - 1), fill=colour)
    if dashed:
        hole = max(2, side // 4)
        middle = range(hole, side - hole)
        draw.rectangle((x + hole, y + hole, x + side - 1 - hole, y + side - 1 - hole), fill=PAPER)
        notch = max(1, len(middle) // 3)
        start = (side - notch) // 2
        draw.rectangle((x, y + start, x + side - 1, y + start + notch - 1), fill=PAPER)
        draw.rectangle((x + start, y, x + start + notch - 1, y + side - 1), fill=PAPER)
