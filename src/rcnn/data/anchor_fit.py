"""How well the anchors of a detector fit the objects of a data set, and anchors that fit better.

The RPN learns an object well where some anchor has a large IoU with it (Faster R-CNN, section
3.1.2). For an anchor of one shape that IoU is largest at the position nearest to the object, so
that one position for each object and template is enough to know the best of all anchors.

Letters: N objects, T templates of all levels, M objects whose shapes are clustered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from rcnn.model.anchors import AnchorGrid, AnchorSettings
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import iou

MOST_OBJECTS = 2000
"""Objects that a search looks at; of a larger data set they are drawn at random."""

RESTARTS = 6
"""Starts of a search that are drawn at random, because it ends at the next maximum."""

STEPS = (1.3, 1.1, 1.03)
"""Factors by which the search moves a scale or a ratio, from coarse to fine."""


@dataclass(frozen=True)
class Objects:
    """Objects at the size at which their images are trained on.

    Attributes:
        boxes: corners in pixels of the resized images.
        labels: classes, 1..K.
        sizes: (height, width) of the resized image of each object.
        scale: resized over original size of each object's image.
    """

    boxes: Float[Tensor, "N 4"]
    labels: Int[Tensor, " N"]
    sizes: Int[Tensor, "N 2"]
    scale: Float[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def sides(self) -> Float[Tensor, "N 2"]:
        """Widths and heights in pixels of the resized images."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    def sample(self, count: int, seed: int = 0) -> Objects:
        """Return at most ``count`` of the objects, drawn at random."""
        if len(self) <= count:
            return self
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self), generator=generator)[:count]
        fields = self.boxes, self.labels, self.sizes, self.scale
        return Objects(*(tensor[chosen] for tensor in fields))

    def class_mean(self, values: Shaped[Tensor, " N"]) -> float:
        """Return the mean over the classes of the mean value of each class's objects.

        A class with few objects counts as much as one with many: anchors for the commonest class
        alone would serve nobody.
        """
        _, index, counts = self.labels.unique(return_inverse=True, return_counts=True)
        sums = counts.double().zero_().index_add_(0, index, values.double())
        return float((sums / counts).mean())


@dataclass(frozen=True)
class AnchorFit:
    """Shares of the objects, 0..1, that the anchors and thresholds of a detector can reach.

    Attributes:
        objects: number of objects.
        reached: the best anchor has at least the IoU of a positive anchor.
        only_best: the best anchor lies between the two thresholds: it is positive only because it
            is the object's best.
        beyond: the best anchor has less than the IoU of a negative anchor.
        lost_to_border: an anchor that crosses the border of the image would have reached the
            object, but those are left out (Faster R-CNN, section 3.3).
        lost_to_min_size: a side is shorter than the smallest proposal.
        below_cell: both sides are shorter than the finest stride.
        mean_iou: mean IoU of the objects with their best anchors.
        reached_by_class: ``reached`` of each class's objects, by label; classes with objects only.
    """

    objects: int
    reached: float
    only_best: float
    beyond: float
    lost_to_border: float
    lost_to_min_size: float
    below_cell: float
    mean_iou: float
    reached_by_class: dict[int, float]


@dataclass(frozen=True)
class AnchorProposal:
    """Anchors that reach more objects.

    Attributes:
        scales: square roots of the areas, in strides of the level.
        ratios: heights divided by widths.
        method: how they were found: ``k-medoids`` or ``search``.
        before: share of the objects that the present anchors reach, 0..1; mean of the classes.
        after: share that these reach.
    """

    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    method: str
    before: float
    after: float

    @property
    def overrides(self) -> str:
        """The settings as words of a command line."""
        scales, ratios = (",".join(f"{value:g}" for value in v) for v in (self.scales, self.ratios))
        return f"anchors.scales=[{scales}] anchors.ratios=[{ratios}]"


def anchor_fit(
    objects: Objects, settings: DetectorSettings, strides: Sequence[int]
) -> AnchorFit | None:
    """Return how well a detector's anchors fit some objects; None if there is no object.

    Args:
        objects: the objects at training size.
        settings: anchors, thresholds and smallest proposal of the detector.
        strides: pixels per cell, for each level of the detector's backbone.
    """
    if not len(objects):
        return None
    sampling = settings.anchor_sampling
    anywhere = best_ious(objects, settings.anchors, strides, inside=False).amax(1)
    usable = anywhere
    if sampling.skip_border_anchors:
        usable = best_ious(objects, settings.anchors, strides, inside=True).amax(1)
    sides = objects.sides
    smallest = (sides / objects.scale[:, None]).amin(1)
    reached = usable >= sampling.positive_iou
    labels = objects.labels.unique().tolist()
    return AnchorFit(
        objects=len(objects),
        reached=_share(reached),
        only_best=_share(~reached & (usable >= sampling.negative_iou)),
        beyond=_share(~reached & (usable < sampling.negative_iou)),
        lost_to_border=_share(~reached & (anywhere >= sampling.positive_iou)),
        lost_to_min_size=_share(smallest < settings.proposals.min_size),
        below_cell=_share((sides < min(strides)).all(1)),
        mean_iou=usable.mean().item(),
        reached_by_class={label: _share(reached[objects.labels == label]) for label in labels},
    )


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def best_ious(
    objects: Objects, anchors: AnchorSettings, strides: Sequence[int], *, inside: bool
) -> Float[Tensor, "N T"]:
    """Return the IoU of each object with the best-placed anchor of each template.

    Args:
        objects: the objects at training size.
        anchors: the anchors of every cell; ``spacing=grid`` is taken for ``stride``.
        strides: pixels per cell, for each level.
        inside: only anchors that do not cross the border of the image; 0 where there is none.
    """
    grid = AnchorGrid(anchors, strides)
    centres = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
    limits = objects.sizes.flip(-1)[:, None, :]  # (N, 1, 2) as (width, height)
    found = []
    for level, stride in enumerate(strides):
        cell = grid.get_buffer(f"cell{level}")
        low, high = cell[:, :2], cell[:, 2:]
        # Cells, as indices along x and y, whose anchors the template may take: (N, T, 2).
        first = torch.zeros(1, 1, 2)
        last = ((limits + stride - 1) // stride - 1).float()
        if inside:
            first = torch.maximum(first, (-low / stride - anchors.offset).ceil()[None])
            last = torch.minimum(last, ((limits - high) / stride - anchors.offset).floor())
        wanted = (centres[:, None] - (low + high) / 2) / stride - anchors.offset
        nearest = torch.minimum(torch.maximum(wanted.round(), first), last)
        position = (nearest + anchors.offset) * stride
        boxes = torch.cat([position + low, position + high], dim=-1)
        ious = iou(objects.boxes[:, None], boxes)[:, 0]
        found.append(torch.where((first <= last).all(-1), ious, 0.0))
    return torch.cat(found, dim=1)


def propose_anchors(
    objects: Objects, settings: DetectorSettings, strides: Sequence[int]
) -> AnchorProposal | None:
    """Return as many scales and ratios as the detector has that reach the most objects.

    The first answer is the shapes of k medoids under the distance 1 - IoU (YOLO9000, section 2, has
    it for means). The second is a search: from there, from the present anchors, and from the shapes
    of all objects and of a few, each scale and ratio is moved as long as anchors come nearer.

    Args:
        objects: the objects at training size.
        settings: the detector.
        strides: pixels per cell, for each level.

    Returns:
        The better of the two; None if neither reaches a share that is at least 0.01 larger, if
        there is no object, or if the anchors are given by ``sizes``.
    """
    present, objects = settings.anchors, objects.sample(MOST_OBJECTS)
    if not len(objects) or present.sizes is not None:
        return None
    medoids = _grouped(k_medoids(objects.sample(1000).sides, present.per_cell), present, strides)
    generator = torch.Generator().manual_seed(0)
    few = [
        objects.sides[torch.randint(len(objects), (present.per_cell,), generator=generator)]
        for _ in range(RESTARTS)
    ]
    starts = [_grouped(sides, present, strides) for sides in (objects.sides, *few)]
    search = _Search(objects, settings, strides)
    before, _ = search.shares(present)
    best, method = medoids, "k-medoids"
    for start in (present, medoids, *starts):
        found = search.climb(start)
        if search.score(found) > search.score(best):
            best, method = found, "search"
    after, _ = search.shares(best)
    if after < before + 0.01:
        return None
    return AnchorProposal(best.scales, best.ratios, method, before, after)


class _Search:
    """A search for the scales and ratios that suit some objects."""

    def __init__(
        self, objects: Objects, settings: DetectorSettings, strides: Sequence[int]
    ) -> None:
        self.objects = objects
        self.strides = strides
        self.positive_iou = settings.anchor_sampling.positive_iou
        self.inside = settings.anchor_sampling.skip_border_anchors

    def shares(self, anchors: AnchorSettings) -> tuple[float, float]:
        """Return the share of the objects that anchors reach, and how near they come to all."""
        return self._shares(self._table(anchors).amax((1, 2)))

    def score(self, anchors: AnchorSettings) -> float:
        """Return the mean of the two shares.

        By the first alone a class that is hard to reach would be given up for the others.
        """
        return sum(self.shares(anchors)) / 2

    def climb(self, start: AnchorSettings) -> AnchorSettings:
        """Return anchors from which no step of a single scale or ratio scores more."""
        scales, ratios, best = start.scales, start.ratios, self.score(start)
        for step in STEPS:
            while True:
                # Every scale and ratio as it is, larger and smaller; all pairs of them at once.
                more_scales = [_rounded(s * f) for s in scales for f in (1.0, step, 1 / step)]
                more_ratios = [_rounded(r * f) for r in ratios for f in (1.0, step, 1 / step)]
                table = self._table(
                    replace(start, scales=tuple(more_scales), ratios=tuple(more_ratios))
                )
                moves = [(s, r) for s in _moves(len(scales)) for r in [_still(len(ratios))]]
                moves += [(s, r) for s in [_still(len(scales))] for r in _moves(len(ratios))]
                scores = [
                    sum(self._shares(table[:, s][:, :, r].amax((1, 2)))) / 2 for s, r in moves
                ]
                if max(scores) <= best:
                    break
                best = max(scores)
                chosen_scales, chosen_ratios = moves[scores.index(best)]
                scales = tuple(more_scales[index] for index in chosen_scales)
                ratios = tuple(more_ratios[index] for index in chosen_ratios)
        return replace(start, scales=tuple(sorted(scales)), ratios=tuple(sorted(ratios)))

    def _table(self, anchors: AnchorSettings) -> Float[Tensor, "N _ _"]:
        """Return the best IoU of each object with each scale and ratio, over all levels."""
        best = best_ious(self.objects, anchors, self.strides, inside=self.inside)
        shape = len(best), len(self.strides), len(anchors.scales), len(anchors.ratios)
        return best.view(shape).amax(1)

    def _shares(self, best: Float[Tensor, " N"]) -> tuple[float, float]:
        near = (best / self.positive_iou).clamp(max=1)
        mean = self.objects.class_mean
        return mean(best >= self.positive_iou), mean(near)


def _still(count: int) -> list[int]:
    """Return the positions of ``count`` numbers as they are, in a list of three for each."""
    return list(range(0, 3 * count, 3))


def _moves(count: int) -> Iterator[list[int]]:
    """Yield the positions with one of the numbers larger or smaller."""
    for index in range(count):
        for change in (1, 2):
            positions = _still(count)
            positions[index] += change
            yield positions


def _grouped(
    sides: Float[Tensor, "M 2"], present: AnchorSettings, strides: Sequence[int]
) -> AnchorSettings:
    """Return anchors with the scales and ratios into which shapes fall, as many as present ones."""
    widths, heights = sides.clamp(min=1e-3).unbind(-1)
    # A pyramid repeats each scale at every stride: its middle level gets the middle size.
    stride = math.exp(sum(map(math.log, strides)) / len(strides))
    scales = _centres((widths * heights).sqrt().log(), len(present.scales))
    ratios = _centres((heights / widths).log(), len(present.ratios))
    return replace(
        present,
        scales=tuple(_rounded(math.exp(value) / stride) for value in scales),
        ratios=tuple(_rounded(math.exp(value)) for value in ratios),
    )


def k_medoids(
    sides: Float[Tensor, "M 2"], k: int, rounds: int = 30, seed: int = 0
) -> Float[Tensor, "k2 2"]:
    """Return the shapes of at most ``k`` objects that are the nearest to all others by IoU.

    Args:
        sides: width and height of each object, in pixels.
        k: number of medoids.
        rounds: largest number of times that the medoids are chosen from their clusters.
        seed: seed of the first medoids.
    """
    corners = torch.cat([-sides, sides], dim=1) / 2
    similar = iou(corners, corners)
    generator = torch.Generator().manual_seed(seed)
    medoids = torch.randperm(len(sides), generator=generator)[:k]
    for _ in range(rounds):
        cluster = similar[:, medoids].argmax(1)
        inner = similar * (cluster[:, None] == cluster[None, :])
        total = inner.sum(1)
        chosen = torch.stack(
            [
                torch.where(cluster == number, total, -1.0).argmax()
                for number in cluster.unique().tolist()
            ]
        )
        if torch.equal(chosen, medoids):
            break
        medoids = chosen
    return sides[medoids]


def _centres(values: Float[Tensor, " M"], count: int) -> list[float]:
    """Return the means of ``count`` groups of numbers that are alike (k-means on a line)."""
    centres = torch.quantile(values, (torch.arange(count) + 0.5) / count)
    for _ in range(20):
        group = (values[:, None] - centres).abs().argmin(1)
        centres = torch.stack(
            [values[group == g].mean() if (group == g).any() else centres[g] for g in range(count)]
        )
    return sorted(centres.tolist())


def _rounded(value: float) -> float:
    """Return a number with three significant digits, for people."""
    return float(f"{value:.3g}")
