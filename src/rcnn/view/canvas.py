"""A picture being drawn: frames, hatching, points and labels over an image.

Boxes are given in pixels of the image, whatever the size of the picture. A box from x1 to x2
covers the pixel columns ``round(x1)`` up to, not including, ``round(x2)``, and its frame lies
inside it: a box that ends at the border of the image is seen whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from rcnn.view.labels import Rectangle, place_labels
from rcnn.view.palette import Colour, text_colour
from rcnn.view.tensors import from_pil, to_pil
from rcnn.view.text import fit, font

SMALL = 320
"""An image with a shorter side of fewer pixels has no room for labels, and is enlarged ..."""
ENLARGED = 480
"""... by the whole number that gives the shorter side at least so many pixels ..."""
LONGEST = 1600
"""... but never beyond so many for the longer one."""

SEAM = (0, 0, 0, 70)
"""A translucent dark edge, which keeps light colours visible on a light ground."""


@dataclass(frozen=True)
class Label:
    """A text on a ground of the colour of its box."""

    box: Rectangle
    text: str
    colour: Colour


class Canvas:
    """One image, enlarged if it is small, and what is drawn on it.

    Attributes:
        scale: pixels of the picture per pixel of the image, a whole number.
        line: thickness of a frame, in pixels of the picture.
    """

    def __init__(self, image: UInt8[Tensor, "3 h w"]) -> None:
        picture = to_pil(image)
        self.scale = 1
        if min(picture.size) < SMALL:
            wanted = math.ceil(ENLARGED / min(picture.size))
            self.scale = max(1, min(wanted, LONGEST // max(picture.size)))
            size = (picture.width * self.scale, picture.height * self.scale)
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        self.line = max(2, round(math.sqrt(picture.width * picture.height) / 220))
        self._picture = picture
        # In this mode PIL blends translucent colours into the RGB picture.
        self._draw = ImageDraw.Draw(picture, "RGBA")
        self._labels: list[Label] = []

    def frame(
        self, box: Sequence[float], colour: Colour, *, dashed: bool = False, thin: bool = False
    ) -> None:
        """Draw the outline of a box; nothing where the box is not finite or has no area.

        Args:
            box: (x1, y1, x2, y2) in pixels of the image; what lies outside the image is not seen.
            colour: of the line.
            dashed: interrupted line.
            thin: one translucent line of half the thickness, for boxes that come in crowds.
        """
        rectangle = self._rectangle(box)
        if rectangle is None:
            return
        if thin:
            for strip in _strips(rectangle, max(1, self.line // 2), dashed):
                self._fill(strip, (*colour, 170))
            return
        left, top, right, bottom = rectangle
        for seam in ((left - 1, top - 1, right + 1, bottom + 1), _shrunk(rectangle, self.line)):
            for strip in _strips(seam, 1, dashed=False):
                self._fill(strip, SEAM)
        for strip in _strips(rectangle, self.line, dashed):
            self._fill(strip, (*colour, 255))

    def hatch(self, box: Sequence[float], colour: Colour) -> None:
        """Cover a box with translucent diagonal lines."""
        rectangle = self._rectangle(box)
        if rectangle is None:
            return
        left, top, right, bottom = rectangle
        layer = Image.new("RGBA", (right - left, bottom - top))
        draw = ImageDraw.Draw(layer)
        for start in range(-layer.height, layer.width, 8 * self.line):
            ends = (start, layer.height, start + layer.height, 0)
            draw.line(ends, fill=(*colour, 110), width=max(1, self.line // 2))
        self._picture.paste(layer, (left, top), layer)

    def points(self, points: Float[Tensor, "N 2"], colour: Colour) -> None:
        """Draw small dots at (x, y), in pixels of the image."""
        radius = self.line // 2
        for x, y in (points * self.scale).round().int().tolist():
            self._fill((x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1), SEAM)
            self._fill((x - radius, y - radius, x + radius, y + radius), (*colour, 255))

    def label(self, box: Sequence[float], text: str, colour: Colour) -> None:
        """Write a text beside a box, when the picture is finished: above every frame.

        The labels that come first have the first choice of place.
        """
        rectangle = self._rectangle(box)
        if rectangle is not None:
            self._labels.append(Label(rectangle, text, colour))

    def finish(self) -> UInt8[Tensor, "3 h2 w2"]:
        """Write the labels and return the picture."""
        size = max(12, round(math.sqrt(self._picture.width * self._picture.height) / 34))
        if len(self._labels) > 12:  # a crowded picture has no room for large letters
            size = max(11, round(0.8 * size))
        letters, margin = font(size), max(2, size // 4)
        ascent, descent = letters.getmetrics()
        height = ascent + descent + margin
        texts = [
            fit(label.text, letters, self._picture.width - 2 * margin) for label in self._labels
        ]
        sizes = [(math.ceil(letters.getlength(text)) + 2 * margin, height) for text in texts]
        boxes = [label.box for label in self._labels]
        places = place_labels(boxes, sizes, self._picture.size)
        # The first labels are the most important ones: they lie on top.
        for label, text, place in reversed(list(zip(self._labels, texts, places, strict=True))):
            self._fill(place, (*label.colour, 255))
            origin = (place[0] + margin, place[1] + margin // 2 + ascent)
            self._draw.text(origin, text, text_colour(label.colour), letters, anchor="ls")
        return from_pil(self._picture)

    def _rectangle(self, box: Sequence[float]) -> Rectangle | None:
        """The pixels of a box, cut off a little outside the picture; None if there are none."""
        if not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
            return None
        left, top, right, bottom = (round(coordinate * self.scale) for coordinate in box)
        # A box of less than a pixel is seen as one pixel.
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        # The cut lies so far out that the frame's line at the cut is not seen.
        beyond = 2 * self.line
        width, height = self._picture.width + beyond, self._picture.height + beyond
        left, top = max(left, -beyond), max(top, -beyond)
        right, bottom = min(right, width), min(bottom, height)
        return (left, top, right, bottom) if left < right and top < bottom else None

    def _fill(self, rectangle: Rectangle, colour: tuple[int, int, int, int]) -> None:
        left, top, right, bottom = rectangle
        if left < right and top < bottom:
            # PIL counts the last pixel in.
            self._draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)


def _shrunk(rectangle: Rectangle, pixels: int) -> Rectangle:
    left, top, right, bottom = rectangle
    return left + pixels, top + pixels, right - pixels, bottom - pixels


def _strips(rectangle: Rectangle, thickness: int, dashed: bool) -> list[Rectangle]:
    """The four sides of a frame inside a rectangle, whole or in dashes."""
    left, top, right, bottom = rectangle
    thickness = max(0, min(thickness, (right - left + 1) // 2, (bottom - top + 1) // 2))
    columns = _dashes(left, right, thickness) if dashed else [(left, right)]
    inner = (top + thickness, bottom - thickness)
    rows = _dashes(*inner, thickness) if dashed else [inner]
    strips = []
    for x1, x2 in columns:
        strips += [(x1, top, x2, top + thickness), (x1, bottom - thickness, x2, bottom)]
    for y1, y2 in rows:
        strips += [(left, y1, left + thickness, y2), (right - thickness, y1, right, y2)]
    return strips


def _dashes(start: int, end: int, thickness: int) -> list[tuple[int, int]]:
    """Cut a line into dashes of about four times its thickness; it begins and ends with one."""
    gap = 3 * max(thickness, 1)
    dash = 4 * max(thickness, 1)
    count = max(1, round((end - start + gap) / (dash + gap)))
    period = (end - start + gap) / count
    return [
        (start + round(i * period), start + round((i + 1) * period) - gap) for i in range(count)
    ]
