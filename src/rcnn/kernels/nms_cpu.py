"""Which boxes overlap any of some others, where comparing all pairs would take too long.

Letters: N candidates, S some of them, O others; D coordinates; P neighbours in a piece, W others
beside them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import nms

from rcnn.ops.boxes import iou

PAIRS = 32_000
"""Pairs that are compared at once: few enough for the cache, and for PyTorch to leave them to one
thread (from 32,768 on it would spend more time on handing them out)."""

DOUBT = 1e-5
"""More than the relative error of a comparison in single precision, which is below 1e-6."""

ROUNDING = 1e-6
"""More than rounding adds to a distance in double precision."""


class Candidates(NamedTuple):
    """Boxes of one image.

    Attributes:
        boxes: with ``x1 <= x2`` and ``y1 <= y2``.
        groups: boxes of two groups do not overlap.
        apart: the boxes in double precision, those of each group in a place of their own.
    """

    boxes: Float[Tensor, "N 4"]
    groups: Int[Tensor, " N"]
    apart: Float[Tensor, "N 4"]


def any_iou_above(
    candidates: Candidates,
    some: Int[Tensor, " S"],
    others: Int[Tensor, " O"],
    iou_threshold: float,
) -> Bool[Tensor, " S"]:
    """Return which of some boxes have an IoU above the threshold with any of the others.

    The boxes are put on a line where those that overlap so much are near each other, and only
    neighbours are compared: of proposals a quarter of all pairs on one level, a tenth on five. This
    is done in single precision, twice as fast as in double precision. What is too close to tell is
    decided as :func:`torchvision.ops.nms` does it, operation by operation.

    Args:
        candidates: of one image.
        some: positions of boxes, one or more.
        others: positions of boxes, one or more.
        iou_threshold: above 0.
    """
    # 1. Pieces of neighbours, the larger the fewer there are to compare with; copies of the last
    # box fill the last piece.
    apart = candidates.apart.index_select(0, some)
    places, reaches = _places(apart), _reaches(apart, iou_threshold)
    extent = places.amax(dim=1) - places.amin(dim=1)
    line = int((extent / reaches.amax(dim=1)).argmax())
    place, reach = places[line], reaches[line] + ROUNDING
    size = min(max(2 * PAIRS // len(others), 64), 512)
    order = place.argsort()
    order = torch.cat([order, order[-1:].expand(-len(order) % size)])
    # 2. The others beside each piece: from the first to the last within reach.
    along = _places(candidates.apart.index_select(0, others))[line].sort()
    lowest, highest = (place - reach)[order], (place + reach)[order]
    first = torch.searchsorted(along.values, lowest.view(-1, size).amin(dim=1)).tolist()
    last = torch.searchsorted(along.values, highest.view(-1, size).amax(dim=1)).tolist()
    # 3. What is left until a box overlaps one of them too much.
    pieces, pieces_area = _coordinates(candidates, some[order])
    beside, beside_area = _coordinates(candidates, others[along.indices])
    left = torch.full_like(pieces_area, torch.inf)
    rows = zip(pieces.split(size, dim=1), left.split(size), first, last, strict=True)
    for piece, least, start, end in rows:
        for i in range(start, end, PAIRS // size):
            window = i, min(PAIRS // size, end - i)
            these, areas = beside.narrow(1, *window), beside_area.narrow(0, *window)
            torch.minimum(least, _least_left(piece, these, areas, iou_threshold), out=least)
    left += pieces_area
    # 4. What that says, unless it is too close to 0 to say anything.
    doubt = pieces_area * (DOUBT * (1 + 1 / iou_threshold)) + torch.finfo(left.dtype).tiny
    overlapping = torch.empty_like(some, dtype=torch.bool).scatter_(0, order, left < -doubt)
    close = order[left.abs() <= doubt]
    if len(close) > 0:
        overlapping[close] = _overlaps_exactly(
            apart[close], candidates.apart[others], iou_threshold
        )
    return overlapping


def _places(boxes: Float[Tensor, "S 4"]) -> Float[Tensor, "3 S"]:
    """Return the places of boxes on three lines: x and y of the centre, and log(1 + area)."""
    low, high = boxes.T.contiguous().split(2)  # (S, 4) -> (2, S), (2, S)
    return torch.cat([(low + high) / 2, (high - low).prod(dim=0, keepdim=True).log1p()])


def _reaches(boxes: Float[Tensor, "S 4"], iou_threshold: float) -> Float[Tensor, "3 S"]:
    """Return how far from a box another one may be on each line.

    The centres of two boxes whose IoU is above t are no further apart than (1 - t) / 2t times a
    side of either, and their areas differ by no more than the factor t (and so do areas plus 1).
    """
    low, high = boxes.T.contiguous().split(2)  # (S, 4) -> (2, S), (2, S)
    sides = (high - low) * ((1 - iou_threshold) / (2 * iou_threshold))
    return torch.cat([sides, torch.full_like(sides[:1], -math.log(iou_threshold))])


def _coordinates(
    candidates: Candidates, some: Int[Tensor, " S"]
) -> tuple[Float[Tensor, "D S"], Float[Tensor, " S"]]:
    """Return where the sides of some boxes begin and where they end, and the areas.

    Where groups differ, the group is a third side. The coordinates are those of the boxes as they
    came, as those of boxes that are set apart have too many digits.
    """
    boxes, groups, _ = candidates
    chosen = boxes.index_select(0, some).to(torch.promote_types(boxes.dtype, torch.float32))
    low, high = chosen.T.contiguous().split(2)  # (S, 4) -> (2, S), (2, S)
    own = (high - low).prod(dim=0)
    if bool((groups != groups[0]).any()):
        group = groups.index_select(0, some)[None]
        low, high = torch.cat([low, group]), torch.cat([high, group + 1])
    return torch.cat([low, high]), own


def _least_left(
    boxes: Float[Tensor, "D P"],
    beside: Float[Tensor, "D W"],
    areas: Float[Tensor, " W"],
    iou_threshold: float,
) -> Float[Tensor, " P"]:
    """Return the least that is left of each box, but for its own area.

    IoU > t is to say that both areas minus (1 + t) / t times the shared area is below 0. There are
    as few passes over the pairs as possible, in as little memory.
    """
    half = len(boxes) // 2
    mine, theirs = boxes[:, :, None].unbind(), beside[:, None].unbind()  # D times (P, 1), (1, W)
    sides = zip(mine[:half], mine[half:], theirs[:half], theirs[half:], strict=True)
    shared, *more, last = [
        torch.minimum(end, their_end).sub_(torch.maximum(start, their_start))  # (P, W)
        for start, end, their_start, their_end in sides
    ]
    # The last may be negative: then the product is not above 0 either.
    shared.clamp_(min=0)
    for side in more:
        shared.mul_(side.clamp_(min=0))
    factor = (1 + iou_threshold) / iou_threshold
    return torch.addcmul(areas, shared, last, value=-factor).amin(dim=1)


def _overlaps_exactly(
    boxes: Float[Tensor, "S 4"], others: Float[Tensor, "O 4"], iou_threshold: float
) -> Bool[Tensor, " S"]:
    """Do as :func:`any_iou_above`, with all pairs, 64 boxes at once."""
    largest = [iou(few, others).amax(dim=1) for few in boxes.split(64)]
    return torch.cat(largest) > iou_threshold


STRETCH = 1000
"""Candidates that are looked at together."""

FEW = 200
"""As many kept boxes are compared with a stretch pair by pair, as fast as they could be sorted."""


def nms_topk(
    candidates: Candidates, order: Int[Tensor, " M"], iou_threshold: float, limit: int
) -> Int[Tensor, " K"]:
    """Return the first ``limit`` that greedy suppression keeps.

    What is kept among the best candidates does not depend on those behind them. So a stretch of
    them is looked at, beside what was kept before, until enough are kept. Torchvision's operator
    compares what is kept with all that is not yet suppressed, pair by pair. With hundreds of kept
    boxes most of a stretch goes sooner by :func:`~rcnn.kernels.nms_cpu.any_iou_above`, and the
    operator gets the rest. Two images with 12,000 proposals each, of which it keeps 2,000, take 30
    to 40 ms in place of 95 to 470 ms on one thread, on one level as on five.

    Args:
        candidates: of one image.
        order: positions of those that take part, best first.
        iou_threshold: a box goes if its IoU with a better kept one is above this.
        limit: the most that are kept.
    """
    apart, total = candidates.apart, len(order)
    # 1. While few are kept: all pairs. The fewer are kept, the longer a stretch may be.
    kept, start, stretch = order[:0], 0, min(4 * limit, STRETCH)
    while start < total and len(kept) < min(limit, FEW):
        kept = _greedy(apart, torch.cat([kept, order[start : start + stretch]]), iou_threshold)
        start += stretch
        likely = (limit - len(kept)) * start // len(kept)  # as many fill the limit at this rate
        stretch = max(STRETCH, min(likely, FEW * STRETCH // (2 * len(kept))))

    # 2. Then neighbours only. A stretch that leaves hardly anything might have been longer.
    stretch = STRETCH
    while start < total and len(kept) < limit:
        new = order[start : start + stretch]
        new = new[~any_iou_above(candidates, new, kept, iou_threshold)]
        kept = torch.cat([kept, _greedy(apart, new, iou_threshold)])
        start += stretch
        stretch = 2 * stretch if 10 * len(new) < STRETCH else STRETCH
    return kept[:limit]


def _greedy(
    boxes: Float[Tensor, "N 4"], order: Int[Tensor, " M"], iou_threshold: float
) -> Int[Tensor, " K"]:
    """Return those of ``order``, best first, that greedy suppression keeps."""
    ranks = torch.arange(len(order), 0, -1, dtype=boxes.dtype)
    return order[nms(boxes.index_select(0, order), ranks, iou_threshold)]
