"""Exact non-maximum suppression for many boxes on a CPU, without comparing all pairs.

Letters: N candidates, M candidates in order, S queries, O others, K kept boxes; D coordinates of a
box, Q queries of a chunk, W others in a window.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_iou, nms

MAX_PAIRS = 32_000
"""Pairs that are compared at once: few enough for the cache, and for PyTorch to run them on one
thread (from 32,768 on it would spend more time on distributing them)."""

RELATIVE_ERROR = 1e-5
"""More than the relative error of a comparison in single precision, which is below 1e-6."""

ROUNDING = 1e-6
"""More than rounding adds to a distance in double precision."""

CHUNK = 1000
"""Number of candidates that are looked at together."""

FEW_KEPT = 200
"""Up to this many kept boxes, comparing all pairs is as fast as sorting."""


class Candidates(NamedTuple):
    """Boxes of one image.

    Attributes:
        boxes: boxes with ``x1 <= x2`` and ``y1 <= y2``.
        groups: level or class of each box; boxes of different groups do not suppress each other.
        offset_boxes: the same boxes in double precision, each group moved away from the others.
    """

    boxes: Float[Tensor, "N 4"]
    groups: Int[Tensor, " N"]
    offset_boxes: Float[Tensor, "N 4"]


def nms_topk(
    candidates: Candidates, order: Int[Tensor, " M"], iou_threshold: float, limit: int
) -> Int[Tensor, " K"]:
    """Return the indices of the first ``limit`` boxes that greedy suppression keeps.

    The result equals ``torchvision.ops.nms`` on all candidates, cut off after ``limit``. What
    is kept among the best candidates does not depend on those behind them, so that the candidates
    are processed in chunks until enough are kept. Once hundreds are kept, ``any_iou_above`` removes
    most of a chunk sooner than torchvision's comparison of all pairs, which gets the rest. Two
    images with 12,000 proposals each, 2,000 of which are kept, take 30 to 40 ms instead of 95 to
    470 ms on one thread.

    Args:
        candidates: boxes of one image.
        order: indices of the boxes that take part, best first.
        iou_threshold: largest IoU of a kept box with a better kept one, above 0.
        limit: largest number of kept boxes.
    """
    boxes, total = candidates.offset_boxes, len(order)
    # 1. While few are kept, all pairs are compared. The fewer are kept, the longer a chunk may be.
    kept, start, chunk = order[:0], 0, min(4 * limit, CHUNK)
    while start < total and len(kept) < min(limit, FEW_KEPT):
        kept = _greedy(boxes, torch.cat([kept, order[start : start + chunk]]), iou_threshold)
        start += chunk
        expected = (limit - len(kept)) * start // len(kept)  # fills the limit at this rate
        chunk = max(CHUNK, min(expected, FEW_KEPT * CHUNK // (2 * len(kept))))

    # 2. Then only neighbours. A chunk that leaves hardly anything could have been longer.
    chunk = CHUNK
    while start < total and len(kept) < limit:
        new = order[start : start + chunk]
        new = new[~any_iou_above(candidates, new, kept, iou_threshold)]
        kept = torch.cat([kept, _greedy(boxes, new, iou_threshold)])
        start += chunk
        chunk = 2 * chunk if 10 * len(new) < CHUNK else CHUNK
    return kept[:limit]


def _greedy(
    boxes: Float[Tensor, "N 4"], order: Int[Tensor, " M"], iou_threshold: float
) -> Int[Tensor, " K"]:
    """Return those of ``order``, best first, that greedy suppression keeps."""
    ranks = torch.arange(len(order), 0, -1, dtype=boxes.dtype)
    return order[nms(boxes.index_select(0, order), ranks, iou_threshold)]


def any_iou_above(
    candidates: Candidates,
    queries: Int[Tensor, " S"],
    others: Int[Tensor, " O"],
    iou_threshold: float,
) -> Bool[Tensor, " S"]:
    """Return which of some boxes have an IoU above the threshold with any of the others.

    The boxes are sorted along the axis (x, y or log-area) on which boxes of a high IoU are nearest
    to each other, and only neighbours are compared: a quarter of all pairs of proposals on one
    level, a tenth on five. Comparisons are in single precision; those too close to the threshold
    are repeated in double, as ``torchvision.ops.nms`` computes them.

    Args:
        candidates: boxes of one image.
        queries: indices of the boxes in question, one or more.
        others: indices of the boxes that they are compared with, one or more.
        iou_threshold: IoU, above 0.
    """
    # 1. Sort the queries along the best axis and cut them into chunks, the larger the fewer boxes
    # they are compared with. Copies of the last query fill the last chunk.
    offset_boxes = candidates.offset_boxes.index_select(0, queries)
    positions, reaches = _positions(offset_boxes), _reaches(offset_boxes, iou_threshold)
    extent = positions.amax(dim=1) - positions.amin(dim=1)
    axis = int((extent / reaches.amax(dim=1)).argmax())
    position, reach = positions[axis], reaches[axis] + ROUNDING
    size = min(max(2 * MAX_PAIRS // len(others), 64), 512)
    order = position.argsort()
    order = torch.cat([order, order[-1:].expand(-len(order) % size)])
    # 2. Find the window of the others within reach of each chunk.
    other_positions = _positions(candidates.offset_boxes.index_select(0, others))[axis].sort()
    lowest, highest = (position - reach)[order], (position + reach)[order]
    first_of = torch.searchsorted(other_positions.values, lowest.view(-1, size).amin(dim=1))
    last_of = torch.searchsorted(other_positions.values, highest.view(-1, size).amax(dim=1))
    first, last = first_of.tolist(), last_of.tolist()
    # 3. Compute the smallest margin below the threshold of each query.
    query_sides, query_areas = _coordinates(candidates, queries[order])
    other_sides, other_areas = _coordinates(candidates, others[other_positions.indices])
    margin = torch.full_like(query_areas, torch.inf)
    chunks = zip(query_sides.split(size, dim=1), margin.split(size), first, last, strict=True)
    for sides, smallest, start, end in chunks:
        for i in range(start, end, MAX_PAIRS // size):
            window = i, min(MAX_PAIRS // size, end - i)
            near, areas = other_sides.narrow(1, *window), other_areas.narrow(0, *window)
            torch.minimum(
                smallest, _smallest_margin(sides, near, areas, iou_threshold), out=smallest
            )
    margin += query_areas
    # 4. A margin near 0 does not decide: compute the IoU itself.
    error = (
        query_areas * (RELATIVE_ERROR * (1 + 1 / iou_threshold)) + torch.finfo(margin.dtype).tiny
    )
    above = torch.empty_like(queries, dtype=torch.bool).scatter_(0, order, margin < -error)
    close = order[margin.abs() <= error]
    if len(close) > 0:
        exact = candidates.offset_boxes[others]
        # The IoU of two boxes without area is not a number, which is above no threshold.
        above[close] = torch.cat(
            [
                (box_iou(few, exact) > iou_threshold).any(dim=1)
                for few in offset_boxes[close].split(64)
            ]
        )
    return above


def _positions(boxes: Float[Tensor, "S 4"]) -> Float[Tensor, "3 S"]:
    """Return the position of each box on three axes: x and y of the centre, and log(1 + area)."""
    low, high = boxes.T.contiguous().split(2)  # (S, 4) -> (2, S), (2, S)
    return torch.cat([(low + high) / 2, (high - low).prod(dim=0, keepdim=True).log1p()])


def _reaches(boxes: Float[Tensor, "S 4"], iou_threshold: float) -> Float[Tensor, "3 S"]:
    """Return how far from each box, on each axis, a box with an IoU above the threshold may be."""
    # The centres of two boxes with an IoU above t are no further apart than (1 - t) / 2t times a
    # side of either, and their areas differ by no more than the factor t (as do areas plus 1).
    low, high = boxes.T.contiguous().split(2)  # (S, 4) -> (2, S), (2, S)
    sides = (high - low) * ((1 - iou_threshold) / (2 * iou_threshold))
    return torch.cat([sides, torch.full_like(sides[:1], -math.log(iou_threshold))])


def _coordinates(
    candidates: Candidates, indices: Int[Tensor, " S"]
) -> tuple[Float[Tensor, "D S"], Float[Tensor, " S"]]:
    """Return starts and ends of the sides of some boxes, and their areas.

    Where groups differ, the group is a third side.
    """
    boxes, groups, _ = candidates
    # Boxes with an offset need more digits than single precision has.
    chosen = boxes.index_select(0, indices).to(torch.promote_types(boxes.dtype, torch.float32))
    low, high = chosen.T.contiguous().split(2)  # (S, 4) -> (2, S), (2, S)
    areas = (high - low).prod(dim=0)
    if bool((groups != groups[0]).any()):
        group = groups.index_select(0, indices)[None]
        low, high = torch.cat([low, group]), torch.cat([high, group + 1])
    return torch.cat([low, high]), areas


def _smallest_margin(
    queries: Float[Tensor, "D Q"],
    others: Float[Tensor, "D W"],
    other_areas: Float[Tensor, " W"],
    iou_threshold: float,
) -> Float[Tensor, " Q"]:
    """Return the smallest margin of each query over the others, without the query's own area."""
    # IoU > t is the same as: both areas minus (1 + t) / t times the shared area is below 0. There
    # are as few passes over the pairs as possible, in as little memory.
    half = len(queries) // 2
    ours, theirs = queries[:, :, None].unbind(), others[:, None].unbind()  # D of (Q, 1), (1, W)
    sides = zip(ours[:half], ours[half:], theirs[:half], theirs[half:], strict=True)
    shared, *more, last = [
        torch.minimum(end, their_end).sub_(torch.maximum(start, their_start))  # (Q, W)
        for start, end, their_start, their_end in sides
    ]
    # The last may be negative: then the product is not above 0 either.
    shared.clamp_(min=0)
    for side in more:
        shared.mul_(side.clamp_(min=0))
    factor = (1 + iou_threshold) / iou_threshold
    return torch.addcmul(other_areas, shared, last, value=-factor).amin(dim=1)
