"""Which boxes overlap any of some others, where comparing all pairs would take too long.

Letters: N candidates, of these S some and O others; D sides of a box; P neighbours in a piece, W
others beside them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.ops.boxes import area, iou

PAIRS = 32_000
"""Pairs that are compared at once: few enough for the cache and for one thread."""

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


class Sides(NamedTuple):
    """Boxes by their sides, so that what pairs of them need lies side by side in memory.

    Attributes:
        low: where a side begins: x, y and, if there are several groups, the group.
        high: where it ends; a group ends where the next begins.
        area: of the boxes.
    """

    low: Float[Tensor, "D N"]
    high: Float[Tensor, "D N"]
    area: Float[Tensor, " N"]

    @classmethod
    def of(cls, candidates: Candidates) -> Sides:
        """Take the boxes as they are, for those that are set apart have too many digits."""
        boxes, groups, _ = candidates
        boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
        low, high = boxes.T.contiguous().split(2)  # (N, 4) -> (2, N), (2, N)
        if bool((groups != groups[0]).any()):
            low, high = torch.cat([low, groups[None]]), torch.cat([high, groups[None] + 1])
        return cls(low, high, area(boxes))

    def take(self, positions: Int[Tensor, " M"]) -> Sides:
        """Return some of the boxes."""
        low, high = self.low.index_select(1, positions), self.high.index_select(1, positions)
        return Sides(low, high, self.area[positions])

    def narrow(self, start: int, end: int) -> Sides:
        """Return the boxes of a range."""
        return Sides(*(part.narrow(-1, start, end - start) for part in self))


class Neighbours:
    """Candidates on a line, where those that overlap by more than a threshold are near each other.

    The centres of two boxes whose IoU is above t are no further apart than (1 - t) / 2t times a
    side of either, and their areas differ by no more than the factor t. So there are three lines:
    the positions of the centres, horizontally and vertically, and the logarithms of the areas. The
    one is taken on which the boxes are spread the most, compared with the largest such distance.
    Of all pairs of proposals a quarter are within reach on one level, a tenth on five.

    Args:
        candidates: one or more.
        iou_threshold: t, above 0.
    """

    def __init__(self, candidates: Candidates, iou_threshold: float) -> None:
        self.sides = Sides.of(candidates)
        self.apart = candidates.apart
        self.iou_threshold = iou_threshold
        low, high = self.apart.T.contiguous().split(2)  # (N, 4) -> (2, N), (2, N)
        lengths = high - low
        # log(1 + area) is finite for an area of 0, too; the difference of two is no larger.
        sizes = lengths.prod(dim=0, keepdim=True).log1p()
        factor = torch.full_like(sizes, -math.log(iou_threshold))
        places = torch.cat([(low + high) / 2, sizes])
        reaches = torch.cat([lengths * ((1 - iou_threshold) / (2 * iou_threshold)), factor])
        reaches += ROUNDING
        extent = places.amax(dim=1) - places.amin(dim=1)
        line = int((extent / reaches.amax(dim=1)).argmax())
        self.place = places[line]
        self.first, self.last = self.place - reaches[line], self.place + reaches[line]

    def overlap(self, some: Int[Tensor, " S"], others: Int[Tensor, " O"]) -> Bool[Tensor, " S"]:
        """Return which of some boxes have an IoU above the threshold with any of the others.

        Pairs are compared in single precision, twice as fast as in double precision. What is too
        close to tell is decided as :func:`torchvision.ops.nms` does it, operation by operation.

        Args:
            some: positions of boxes, one or more.
            others: positions of boxes, one or more.
        """
        # 1. Pieces of neighbours, the larger the fewer there are to compare with; copies of the last
        # box fill the last piece.
        size = min(max(2 * PAIRS // len(others), 64), 512)
        order = self.place[some].argsort()
        order = torch.cat([order, order[-1:].expand(-len(order) % size)])
        boxes = some[order]
        # 2. The others beside each piece: from the first to the last within reach.
        others = others[self.place[others].argsort()]
        along = self.place[others]
        first = torch.searchsorted(along, self.first[boxes].view(-1, size).amin(dim=1)).tolist()
        last = torch.searchsorted(along, self.last[boxes].view(-1, size).amax(dim=1)).tolist()
        # 3. What is left until a box overlaps one of them too much.
        low, high, own = self.sides.take(boxes)
        beside = self.sides.take(others)
        left = torch.full_like(own, torch.inf)
        parts = (low.split(size, dim=1), high.split(size, dim=1), own.split(size), left.split(size))
        for *piece, least, start, end in zip(*parts, first, last, strict=True):
            for i in range(start, end, PAIRS // size):
                window = beside.narrow(i, min(i + PAIRS // size, end))
                found = _least_left(Sides(*piece), window, self.iou_threshold)
                torch.minimum(least, found, out=least)
        left += own
        # 4. What that says, unless it is too close to 0 to say anything.
        doubt = own * (DOUBT * (1 + 1 / self.iou_threshold)) + torch.finfo(own.dtype).tiny
        overlapping = left < -doubt
        close = (left.abs() <= doubt).nonzero().squeeze(1)
        if len(close) > 0:
            overlapping[close] = self._overlap_exactly(boxes[close], others)
        return torch.empty_like(some, dtype=torch.bool).scatter_(0, order, overlapping)

    def _overlap_exactly(
        self, some: Int[Tensor, " S"], others: Int[Tensor, " O"]
    ) -> Bool[Tensor, " S"]:
        """Do as :meth:`overlap`, with all pairs in double precision."""
        beside = self.apart[others]
        largest = [iou(self.apart[few], beside).amax(dim=1) for few in some.split(64)]
        return torch.cat(largest) > self.iou_threshold


def _least_left(boxes: Sides, beside: Sides, iou_threshold: float) -> Float[Tensor, " P"]:
    """Return the least that is left of each box, but for its own area.

    IoU > t is to say that both areas minus (1 + t) / t times the shared area is below 0. There are
    as few passes over the pairs as possible, in as little memory.
    """
    # (D, P, 1), (D, 1, W) -> (D, P, W)
    low = torch.maximum(boxes.low[:, :, None], beside.low[:, None])
    sides = torch.minimum(boxes.high[:, :, None], beside.high[:, None]).sub_(low)
    # The last side may be negative: then the product is not above 0 either.
    shared, *more, last = sides.unbind()
    shared.clamp_(min=0)
    for side in more:
        shared.mul_(side.clamp_(min=0))
    factor = (1 + iou_threshold) / iou_threshold
    return torch.addcmul(beside.area, shared, last, value=-factor).amin(dim=1)
