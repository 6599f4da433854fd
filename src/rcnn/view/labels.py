"""Where the labels go: beside their boxes, inside the picture, off each other.

Rectangles are ``(left, top, right, bottom)`` in whole pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Rectangle: TypeAlias = tuple[int, int, int, int]


def place_labels(
    boxes: Sequence[Rectangle],
    sizes: Sequence[tuple[int, int]],
    picture: tuple[int, int],
) -> list[Rectangle]:
    """Return a place for the label of each box.

    Every label tries the corners of its box, above the top left corner first, and takes the first
    place where it covers no label that came before it, or else the place where it covers least.

    Args:
        boxes: the objects, the most important first.
        sizes: (width, height) of each label.
        picture: (width, height); a label is moved inside where it would stick out, and begins at
            the left or top border where it is larger than the picture.
    """
    placed: list[Rectangle] = []
    for box, size in zip(boxes, sizes, strict=True):
        candidates = [_inside(place, size, picture) for place in _corners(box, size)]
        # min takes the first of equals, so the order of the corners is the order of preference.
        placed.append(min(candidates, key=lambda place: sum(_shared(place, p) for p in placed)))
    return placed


def _corners(box: Rectangle, size: tuple[int, int]) -> list[tuple[int, int]]:
    """The top left points of a label: at the corners of its box, then a row further off."""
    left, top, right, bottom = box
    width, height = size
    return [
        (left, top - height),
        (left, top),
        (right - width, top - height),
        (left, bottom),
        (right - width, bottom),
        (right - width, top),
        (left, bottom - height),
        (right - width, bottom - height),
        (right, top),
        (left - width, top),
        (right, bottom - height),
        (left - width, bottom - height),
        (left, top - 2 * height),
        (left, bottom + height),
        (left, top + height),
        (right - width, top - 2 * height),
        (right - width, bottom + height),
    ]


def _inside(place: tuple[int, int], size: tuple[int, int], picture: tuple[int, int]) -> Rectangle:
    left = max(0, min(place[0], picture[0] - size[0]))
    top = max(0, min(place[1], picture[1] - size[1]))
    return left, top, left + size[0], top + size[1]


def _shared(a: Rectangle, b: Rectangle) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
