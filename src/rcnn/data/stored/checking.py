"""What proposals have to be before they are stored or used.

Letters: P proposals of one image, N of several. Sizes are (height, width).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.data.errors import DataError
from rcnn.data.index import box_rule

SWAP_REMEDY = "Bring the columns into the order (x1, y1, x2, y2) and write the proposals again"


def sound(
    boxes: Float[np.ndarray, "N 4"], sizes: Int[np.ndarray, "N 2"], border: float = 0.0
) -> Bool[np.ndarray, " N"]:
    """Return which boxes are finite, have an area and lie inside their image.

    Args:
        boxes: x1, y1, x2, y2.
        sizes: of each box's image.
        border: pixels by which a box may pass the border of its image.
    """
    x1, y1, x2, y2 = boxes.T
    heights, widths = sizes.T
    # Comparisons with a number that is none are false, so it needs no test of its own; an infinite
    # one is outside. After clipping to the image an area must be left.
    inside = (x1 >= -border) & (y1 >= -border) & (x2 <= widths + border) & (y2 <= heights + border)
    area = (x1 < x2) & (y1 < y2) & (x2 > 0) & (y2 > 0) & (x1 < widths) & (y1 < heights)
    return np.asarray(inside & area)


def check_boxes(
    boxes: Float[np.ndarray, "P 4"],
    size: tuple[int, int],
    where: str,
    *,
    border: float = 0.0,
    swap_remedy: str = SWAP_REMEDY,
) -> None:
    """Check the proposals of one image.

    Args:
        boxes: x1, y1, x2, y2.
        size: of the image.
        where: file and image, for the message.
        border: pixels by which a box may pass the border of its image.
        swap_remedy: what to do about boxes that would be right with x and y exchanged.

    Raises:
        DataError: for the first box that is not sound; it tells boxes in the order (y1, x1, y2,
            x2) from others.
    """
    sizes = np.broadcast_to(np.array(size), (len(boxes), 2))
    right = sound(boxes, sizes, border)
    if right.all():
        return
    place = int(np.argmin(right))
    x1, y1, x2, y2 = boxes[place].tolist()
    reason, allowed = "box without area", box_rule(size)
    if not np.isfinite(boxes[place]).all():
        reason = "coordinate that is no finite number"
    elif x2 < x1 or y2 < y1:
        reason = "inverted box"
    elif sound(boxes[:, [1, 0, 3, 2]], sizes, border).all():
        reason = "boxes in (y1, x1, y2, x2) order"
        allowed = (
            f"In an image of {size[1]} x {size[0]} pixels (width x height) all {len(boxes)} boxes "
            f"lie inside with x and y exchanged, but not as they are. {swap_remedy}"
        )
    elif not (x1 == x2 or y1 == y2):
        reason = "box outside the image"
    raise DataError.about(
        reason,
        where=f"{where}, proposal {place + 1} of {len(boxes)}",
        found=f"x1={x1:g} y1={y1:g} x2={x2:g} y2={y2:g}",
        allowed=allowed,
    )


def check_scores(scores: Float[np.ndarray, " P"], where: str) -> None:
    """Check the scores of one image.

    Raises:
        DataError: for the first one that is no finite number.
    """
    right = np.isfinite(scores)
    if right.all():
        return
    place = int(np.argmin(right))
    raise DataError.about(
        "score that is no finite number",
        where=f"{where}, proposal {place + 1} of {len(scores)}",
        found=f"score={scores[place]:g}",
        allowed="Scores may be any finite numbers, the best highest",
    )


def as_float32(values: Float[Tensor, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the numbers of a tensor on any device as float32."""
    return np.asarray(values.detach().cpu().float().contiguous().numpy())
