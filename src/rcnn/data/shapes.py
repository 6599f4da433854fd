"""Synthetic pictures with coloured shapes, drawn on the fly: nothing to download, easy to learn.

Letters: I images. Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int32, UInt8

from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.errors import Problems
from rcnn.data.index import PackedStrings
from rcnn.settings import require
from rcnn.structures import GroundTruth

SHAPES = ("circle", "square", "triangle")
SIDES = (0.15, 0.4)  # shortest and longest side of a shape, as fractions of the image's
ATTEMPTS = 20  # at finding room for a shape, before it is left out
CONTRAST = 100  # by which one channel of a shape differs at least from the background's colour
TEXTURE, NOISE, NODES = 25, 12, 8  # amplitudes of coarse and fine noise; coarse nodes a side


class ShapesDataset(DetectionDataset):
    """Square pictures with circles, squares and triangles on a blotchy, noisy background.

    Shapes do not hide each other, so every box is exact: it is the extent of the shape's pixels.
    Image i of a seed is the same in every process and every epoch.

    Args:
        count: number of images.
        seed: seed of the whole set; sets of different seeds share nothing.
        size: height and width in pixels.
        max_objects: largest number of objects in an image; the smallest is 1.
        empty_share: probability of an image without objects.
        class_names: the shapes that are drawn, one or more of ``SHAPES``.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        size: int = 160,
        *,
        max_objects: int = 4,
        empty_share: float = 0.0,
        class_names: Sequence[str] = SHAPES,
    ) -> None:
        require(count > 0, "count", count, "at least one image")
        require(seed >= 0, "seed", seed, "zero or a positive whole number")
        require(size >= 16, "size", size, "at least 16 pixels")
        require(max_objects > 0, "max_objects", max_objects, "at least one object")
        require(0 <= empty_share <= 1, "empty_share", empty_share, "a probability, 0 to 1")
        known = len(class_names) > 0 and set(class_names) <= set(SHAPES)
        unique = len(set(class_names)) == len(class_names)
        require(known and unique, "class_names", class_names, f"some of {', '.join(SHAPES)}")
        self.class_names = tuple(class_names)
        self.image_ids = PackedStrings(f"shapes-{seed}-{number:06d}" for number in range(count))
        self.aspect_ratios = np.ones(count, dtype=np.float32)
        self.problems = Problems()
        self._seed = seed
        self._size = size
        self._max_objects = max_objects
        self._empty_share = empty_share

    @property
    def sizes(self) -> Int32[np.ndarray, "I 2"]:
        """The size of every picture; all are the same."""
        return np.broadcast_to(np.int32(self._size), (len(self), 2))

    def ground_truth(self, index: int) -> GroundTruth:
        """Return the objects of a picture, without drawing it."""
        return self._ground_truth(list(self._shapes(self._random(index))))

    def __getitem__(self, index: int) -> Sample:
        """Draw a picture."""
        random = self._random(index)
        shapes = list(self._shapes(random))
        return Sample(
            image=torch.from_numpy(_draw(shapes, self._size, random)).permute(2, 0, 1),
            ground_truth=self._ground_truth(shapes),
            image_id=self.image_ids[index],
            original_size=(self._size, self._size),
        )

    def _random(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, range(len(self))[index]])

    def _shapes(self, random: np.random.Generator) -> Iterator[_Shape]:
        if random.random() < self._empty_share:
            return
        shortest, longest = (round(fraction * self._size) for fraction in SIDES)
        taken = np.zeros((self._size, self._size), dtype=np.bool_)
        classes, objects = len(self.class_names), random.integers(self._max_objects) + 1
        for label in random.integers(1, classes + 1, objects).tolist():
            for _ in range(ATTEMPTS):
                side = int(random.integers(shortest, longest + 1))
                left, top = random.integers(0, self._size - side + 1, 2).tolist()
                shape = _Shape(self.class_names[label - 1], left, top, side)
                covered = shape.mask()
                if not (taken[shape.window] & covered).any():
                    taken[shape.window] |= covered
                    yield shape
                    break

    def _ground_truth(self, shapes: Sequence[_Shape]) -> GroundTruth:
        corners = [[s.left, s.top, s.left + s.side, s.top + s.side] for s in shapes]
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        labels = [self.class_names.index(shape.name) + 1 for shape in shapes]
        none = torch.zeros(len(shapes), dtype=torch.bool)
        return GroundTruth(
            boxes=boxes,
            labels=torch.tensor(labels, dtype=torch.int64),
            difficult=none,
            crowd=none.clone(),
            areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        )


@dataclass(frozen=True)
class _Shape:
    """A shape that fills the square of ``side`` pixels whose first pixel is (``left``, ``top``)."""

    name: str
    left: int
    top: int
    side: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The square's rows and columns."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)

    def mask(self) -> Bool[np.ndarray, "side side"]:
        """Return which pixels of the square the shape covers; it touches all four edges."""
        centres = np.arange(self.side) + 0.5
        across = np.abs(centres - self.side / 2)
        match self.name:
            case "circle":
                covered = across[:, None] ** 2 + across**2 <= (self.side / 2) ** 2
            case "triangle":
                covered = across <= (centres[:, None] + 0.5) / 2
            case _:
                covered = np.ones((self.side, self.side), dtype=np.bool_)
        return np.asarray(covered)


def _draw(
    shapes: Sequence[_Shape], size: int, random: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    base = random.integers(40, 216, 3)
    picture = _background(base, size, random)
    for shape in shapes:
        colour = random.integers(0, 256, 3)
        while np.abs(colour - base).max() < CONTRAST:
            colour = random.integers(0, 256, 3)
        picture[shape.window][shape.mask()] = colour
    return picture


def _background(
    base: np.ndarray, size: int, random: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    nodes = random.integers(-TEXTURE, TEXTURE + 1, (3, NODES, NODES))
    # Linear interpolation between the nodes, as (size, NODES) weights for rows and columns.
    positions = np.linspace(0, NODES - 1, size)[:, None]
    weights = np.clip(1 - np.abs(positions - np.arange(NODES)), 0, None)
    blotches = (weights @ nodes @ weights.T).transpose(1, 2, 0)
    noise = random.integers(-NOISE, NOISE + 1, (size, size, 3), dtype=np.int16)
    return np.asarray(np.clip(base + blotches + noise, 0, 255), dtype=np.uint8)
