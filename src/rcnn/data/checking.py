"""What every reader checks of images and boxes before it lets them in.

Letters: T objects of a whole data set. Sizes are (height, width).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int, Int8

from rcnn.data.decoding import read_header, read_image, wrong_size

# A box may pass the border by this much before it is an error: 1-based files written by 0-based
# tools, and rounding. Such a box is clipped.
BORDER = 1.0

# -1 stored in an unsigned 16-bit number, and -2; the classic fault of VOC files read as uint16.
WRAPPED = 65534.0

# The reasons by which a box is refused; the position is its code.
BOX_FAULTS = (
    "sound box",
    "coordinate that is no finite number",
    "wrapped-around coordinate",
    "inverted box",
    "box outside the image",
    "box without area",
)


def checked_size(file: Path, annotated: tuple[int, int] | None, where: str) -> tuple[int, int]:
    """Check an image file from the outside and return the (height, width) that it is read with.

    Only the two ends of the file are looked at. A JPEG or PNG that does not end as it should is
    decoded to tell a cut-off file from one with something harmless behind its end.

    Args:
        file: the image.
        annotated: the size that its annotation states, if it states one.
        where: the annotation, for the message.

    Raises:
        DataError: if the file is missing, broken, cut off, or not of the annotated size.
    """
    header = read_header(file)
    if not header.has_end:
        read_image(file)
    if annotated is None:
        return header.size
    if annotated not in (header.size, header.turned_size):
        raise wrong_size(f"{where}, {file}", annotated, (header.size, header.turned_size))
    return annotated


def clipped(
    boxes: Float64[np.ndarray, "T 4"], sizes: Int[np.ndarray, "T 2"]
) -> Float32[np.ndarray, "T 4"]:
    """Return the part of each box that lies inside its image."""
    limits = sizes[:, [1, 0, 1, 0]]
    return np.asarray(np.clip(boxes, 0, limits), dtype=np.float32)


def box_faults(
    corners: Float64[np.ndarray, "T 4"],
    shift: Float64[np.ndarray, " 4"],
    sizes: Int[np.ndarray, "T 2"],
) -> Int8[np.ndarray, " T"]:
    """Return the first fault of each box as a position in :data:`BOX_FAULTS`, 0 for none.

    Args:
        corners: ``x1, y1, x2, y2`` as they stand in the annotation. Order and area are judged on
            these: in a 1-based inclusive file equal corners would become a box of one pixel, but
            they are the mark of a click that was not dragged.
        shift: what is added to ``corners`` to get continuous 0-based boxes.
        sizes: (height, width) of each box's image.
    """
    boxes = corners + shift
    sides = corners[:, 2:] - corners[:, :2]
    limits = sizes[:, [1, 0, 1, 0]]
    inside = clipped(boxes, sizes)
    faults = [
        ~np.isfinite(corners).all(1),
        ((corners >= WRAPPED) & (limits < WRAPPED)).any(1),
        (sides < 0).any(1),
        ((boxes < -BORDER) | (boxes > limits + BORDER)).any(1),
        (sides <= 0).any(1) | (inside[:, 2:] <= inside[:, :2]).any(1),
    ]
    return np.select(faults, np.arange(1, len(BOX_FAULTS)), default=0).astype(np.int8)


def box_rule(size: tuple[int, int]) -> str:
    """Say in words what a box in an image of ``size`` has to be."""
    return (
        "A box needs finite corners, left before right and top before bottom, "
        f"inside its image of {size[1]} x {size[0]} pixels"
    )
