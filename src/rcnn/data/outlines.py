"""Boxes of objects that are given by their outline: polygons, masks in run lengths, turned boxes.

Corners are (x1, y1, x2, y2) in continuous pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2."""


def polygon_corners(outline: object) -> Corners:
    """Return the corners of the smallest box around the points of one or several polygons.

    Args:
        outline: ``[x1, y1, x2, y2, ...]``, a list of such lists, or a list of pairs (x, y).

    Raises:
        ValueError: there are fewer than two points, a coordinate is missing, or is no number.
        TypeError: it is no list.
    """
    numbers: list[float] = []
    parts = [outline]
    while parts:
        part = parts.pop()
        if isinstance(part, list | tuple):
            parts.extend(reversed(part))
        else:
            numbers.append(float(part))  # type: ignore[arg-type]
    if len(numbers) < 4 or len(numbers) % 2:
        raise ValueError(f"an outline of {len(numbers)} numbers")
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def mask_corners(mask: Mapping[str, object], size: tuple[int, int]) -> Corners:
    """Return the corners of the smallest box around a mask in COCO's run lengths.

    The pixels are counted down the columns; runs outside and inside the object take turns.

    Args:
        mask: ``size``, (height, width), and ``counts``, a list of numbers or COCO's compressed
            text.
        size: (height, width) of the image.

    Raises:
        ValueError: the mask is empty, of another size than the image, or too long for it.
        KeyError, TypeError: it has other entries.
    """
    if list(mask["size"]) != list(size):  # type: ignore[call-overload]
        raise ValueError(f"a mask of (height, width) = {mask['size']}")
    counts = mask["counts"]
    runs = np.array(_uncompressed(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    ends = np.cumsum(runs)
    starts, ends = (ends - runs)[1::2], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if len(starts) == 0 or (runs < 0).any() or runs.sum() > size[0] * size[1]:
        raise ValueError("a mask without pixels, or with more than the image has")
    (left, right), height = (starts // size[0], (ends - 1) // size[0]), size[0]
    one_column = left == right
    top = np.where(one_column, starts % height, 0).min()
    bottom = np.where(one_column, (ends - 1) % height, height - 1).max()
    return float(left.min()), float(top), float(right.max() + 1), float(bottom + 1)


def _uncompressed(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed text.

    Each character holds five bits of a number, lowest first, and a bit that says whether more
    follow. From the fourth on, numbers are differences from the last but one.
    """
    runs: list[int] = []
    number, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        number |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number, shift = 0, 0
    return runs


def turned_corners(x: float, y: float, width: float, height: float, angle: float) -> Corners:
    """Return the corners of the smallest upright box around a turned one.

    Args:
        x: centre, in pixels from the left.
        y: centre, in pixels from the top.
        width: side before the turn, in pixels.
        height: side before the turn, in pixels.
        angle: turn in radians.
    """
    sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
    across, down = (width * cosine + height * sine) / 2, (width * sine + height * cosine) / 2
    return x - across, y - down, x + across, y + down
