"""Images in and out of PIL, and one image being drawn on: frames, hatching, points and labels.

Boxes are given in pixels of the image, whatever the size of the picture. A box from x1 to x2
covers the pixel columns ``round(x1)`` up to, not including, ``round(x2)``, and its frame lies
inside it: a box that ends at the border of the image is seen whole.

Letters: (h, w) of one image, N points. Everything drawn is RGB, ``uint8``.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from rcnn.structures import ImageBatch
from rcnn.view.colours import Colour, text_colour

Rectangle: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels of the picture; right and bottom are outside."""

SMALL = 320
"""An image with a shorter side of fewer pixels has no room for labels, and is enlarged ..."""
ENLARGED = 480
"""... by the whole number that gives the shorter side at least so many pixels ..."""
LONGEST = 1600
"""... but never beyond so many for the longer one."""

SEAM = (0, 0, 0, 70)
"""A translucent dark edge, which keeps light colours visible on a light ground."""


def to_uint8(image: Shaped[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    """Return an image as bytes on the CPU.

    Args:
        image: RGB, ``uint8`` or floating point in 0..1, not normalised.

    Raises:
        ValueError: the values lie outside 0..1, so that this is a normalised image or one in
            0..255, or the dtype is of another kind.
    """
    image = image.detach().cpu()
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ValueError(
            f"an image to draw on is uint8 or floating point in 0..1, this one is {image.dtype}: "
            "convert it with image.to(torch.uint8) if its values lie in 0..255"
        )
    image = image.float()
    low, high = (value.item() for value in image.aminmax())
    # Resizing may overshoot by a rounding error, which is no reason to refuse a picture.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"a floating point image to draw on has values in 0..1, this one in {low:g}..{high:g}: "
            "pass the pixels as they were before the detector normalised them"
        )
    converted: Tensor = transforms.to_dtype(image.clamp(0, 1), torch.uint8, scale=True)
    return converted


def image_of(batch: ImageBatch, index: int) -> UInt8[Tensor, "3 h w"]:
    """Return one image of a minibatch as bytes, without its padding."""
    height, width = batch.sizes[index].tolist()
    return to_uint8(batch.pixels[index, :, :height, :width])


def to_pil(image: UInt8[Tensor, "3 h w"]) -> Image.Image:
    """Return a new PIL image, which shares no memory with the tensor.

    Raises:
        ValueError: the image is not ``uint8``.
    """
    if image.dtype != torch.uint8:
        raise ValueError(
            f"pictures are drawn on uint8 images, this one is {image.dtype}: "
            "convert it with rcnn.view.to_uint8 (from 0..1) first"
        )
    return Image.fromarray(image.cpu().permute(1, 2, 0).numpy())


def from_pil(picture: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Return an RGB picture as a tensor, as TensorBoard's ``add_image`` takes it."""
    tensor: Tensor = transforms.pil_to_tensor(picture)
    return tensor


@lru_cache(maxsize=32)
def font(size: int, ascii_only: bool = True) -> ImageFont.FreeTypeFont:
    """Return a font, ``size`` pixels high.

    PIL's own (Aileron) has the letters of ASCII only. For others it is DejaVu Sans, which comes
    with matplotlib; where neither has a letter, or matplotlib is missing, it is an empty box.
    """
    package = importlib.util.find_spec("matplotlib")
    if not ascii_only and package is not None and package.origin is not None:
        wider = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if wider.is_file():
            return ImageFont.truetype(wider, size)
    letters = ImageFont.load_default(size)
    assert isinstance(letters, ImageFont.FreeTypeFont)  # with a size it is never the bitmap font
    return letters


class FittedText(NamedTuple):
    """One line of text with its font and its width in pixels."""

    text: str
    letters: ImageFont.FreeTypeFont
    width: int


def fit(text: str, size: int, width: int) -> FittedText:
    """Return ``text`` on one line, cut short by an ellipsis where it is too wide.

    Args:
        text: any text; a line break becomes a space.
        size: height of the font in pixels.
        width: most pixels of the line.
    """
    text = " ".join(text.splitlines())
    letters = font(size, text.isascii())
    if letters.getlength(text) > width:
        while text and letters.getlength(text + "…") > width:
            text = text[:-1]
        text = text.rstrip() + "…"
    return FittedText(text, letters, math.ceil(letters.getlength(text)))


def place_labels(
    boxes: Sequence[Rectangle], sizes: Sequence[tuple[int, int]], picture: tuple[int, int]
) -> list[Rectangle]:
    """Return a rectangle for the label of each box.

    Every label tries the corners of its box, above the top left corner first, and takes the first
    position where it covers no earlier label, or else the one where it covers least.

    Args:
        boxes: the objects, the most important first.
        sizes: (width, height) of each label.
        picture: (width, height); a label is moved inside where it would stick out, and begins at
            the left or top border where it is larger than the picture.
    """
    placed: list[Rectangle] = []
    for (left, top, right, bottom), (width, height) in zip(boxes, sizes, strict=True):
        above, last_x, last_y = top - height, right - width, bottom - height
        corners = [
            (left, above), (left, top), (last_x, above), (left, bottom), (last_x, bottom),
            (last_x, top), (left, last_y), (last_x, last_y), (right, top), (left - width, top),
            (right, last_y), (left - width, last_y),
            # One row further off.
            (left, above - height), (left, bottom + height), (left, top + height),
            (last_x, above - height), (last_x, bottom + height),
        ]  # fmt: skip
        candidates = []
        for x, y in corners:
            x = max(0, min(x, picture[0] - width))
            y = max(0, min(y, picture[1] - height))
            candidates.append((x, y, x + width, y + height))
        # min takes the first of equals, so the order of the corners is the order of preference.
        placed.append(min(candidates, key=lambda c: sum(_shared_area(c, p) for p in placed)))
    return placed


def _shared_area(a: Rectangle, b: Rectangle) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


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
        self._labels: list[tuple[Rectangle, str, Colour]] = []

    def frame(
        self, box: Sequence[float], colour: Colour, *, dashed: bool = False, thin: bool = False
    ) -> None:
        """Draw the outline of a box; nothing where the box is not finite or has no area.

        Args:
            box: (x1, y1, x2, y2) in pixels of the image; what lies outside the image is not seen.
            colour: colour of the line.
            dashed: interrupted line.
            thin: one translucent line of half the thickness, for boxes that come in crowds.
        """
        rectangle = self._rectangle(box)
        if rectangle is None:
            return
        if thin:
            self._outline(rectangle, (*colour, 170), max(1, self.line // 2))
            return
        left, top, right, bottom = rectangle
        line = self.line
        self._outline((left - 1, top - 1, right + 1, bottom + 1), SEAM, 1)
        self._outline((left + line, top + line, right - line, bottom - line), SEAM, 1)
        if not dashed:
            self._outline(rectangle, (*colour, 255), line)
            return
        for strip in _dashes(rectangle, line):
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

        The labels that come first are placed first.
        """
        rectangle = self._rectangle(box)
        if rectangle is not None:
            self._labels.append((rectangle, text, colour))

    def finish(self) -> UInt8[Tensor, "3 h2 w2"]:
        """Write the labels and return the picture."""
        picture = self._picture
        size = max(12, round(math.sqrt(picture.width * picture.height) / 34))
        if len(self._labels) > 12:  # a crowded picture has no room for large letters
            size = max(11, round(0.8 * size))
        margin = max(2, size // 4)
        ascent, descent = font(size).getmetrics()
        height = ascent + descent + margin
        texts = [fit(text, size, picture.width - 2 * margin) for _, text, _ in self._labels]
        sizes = [(text.width + 2 * margin, height) for text in texts]
        grounds = place_labels([box for box, _, _ in self._labels], sizes, picture.size)
        drawn = zip(grounds, texts, (colour for _, _, colour in self._labels), strict=True)
        # The first labels are the most important ones: they lie on top.
        for ground, (text, letters, _), colour in reversed(list(drawn)):
            self._fill(ground, (*colour, 255))
            origin = (ground[0] + margin, ground[1] + margin // 2 + ascent)
            self._draw.text(origin, text, text_colour(colour), letters, anchor="ls")
        return from_pil(picture)

    def _rectangle(self, box: Sequence[float]) -> Rectangle | None:
        """Return the pixels of a box, cut off a little outside the picture, if there are any."""
        if not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
            return None
        left, top, right, bottom = (round(coordinate * self.scale) for coordinate in box)
        # A box of less than a pixel is seen as one pixel.
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        # The cut lies so far out that the frame's line at the cut is not seen.
        beyond = 2 * self.line
        left, top = max(left, -beyond), max(top, -beyond)
        right = min(right, self._picture.width + beyond)
        bottom = min(bottom, self._picture.height + beyond)
        return (left, top, right, bottom) if left < right and top < bottom else None

    def _outline(
        self, rectangle: Rectangle, colour: tuple[int, int, int, int], thickness: int
    ) -> None:
        left, top, right, bottom = rectangle
        if min(right - left, bottom - top) <= 2 * thickness:
            self._fill(rectangle, colour)
        else:  # PIL counts the last pixel in
            corners = (left, top, right - 1, bottom - 1)
            self._draw.rectangle(corners, outline=colour, width=thickness)

    def _fill(self, rectangle: Rectangle, colour: tuple[int, int, int, int]) -> None:
        left, top, right, bottom = rectangle
        if left < right and top < bottom:
            self._draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)


def _dashes(rectangle: Rectangle, thickness: int) -> list[Rectangle]:
    """Return the dashes of a frame inside a rectangle, with one at each corner."""
    left, top, right, bottom = rectangle
    thickness = min(thickness, (right - left + 1) // 2, (bottom - top + 1) // 2)
    dashes = []
    for x1, x2 in _dashed(left, right, thickness):
        dashes += [(x1, top, x2, top + thickness), (x1, bottom - thickness, x2, bottom)]
    for y1, y2 in _dashed(top + thickness, bottom - thickness, thickness):
        dashes += [(left, y1, left + thickness, y2), (right - thickness, y1, right, y2)]
    return dashes


def _dashed(start: int, end: int, thickness: int) -> list[tuple[int, int]]:
    """Return dashes of about four thicknesses, one of them at either end of the line."""
    gap, dash = 3 * thickness, 4 * thickness
    count = max(1, round((end - start + gap) / (dash + gap)))
    period = (end - start + gap) / count
    return [
        (start + round(i * period), start + round((i + 1) * period) - gap) for i in range(count)
    ]
