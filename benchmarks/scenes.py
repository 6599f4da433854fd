"""Pictures with objects, drawn from a seed: texture, grain, and coloured blobs of all sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rcnn.structures import GroundTruth

SMALLEST, LARGEST = 24.0, 0.6
"""Sides of an object: from so many pixels to this share of the picture's side."""


@dataclass(frozen=True)
class Scene:
    """A picture with numbers in 0..1, and the objects in it."""

    pixels: Float[Tensor, "3 h w"]
    ground_truth: GroundTruth


def draw(
    size: tuple[int, int], objects: int, classes: int, count: int, seed: int = 0
) -> list[Scene]:
    """Draw pictures of one size.

    Args:
        size: (height, width).
        objects: in each picture; they may hide each other.
        classes: K.
        count: of pictures.
        seed: of all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    return [_draw(size, objects, classes, generator) for _ in range(count)]


def _draw(size: tuple[int, int], objects: int, classes: int, generator: torch.Generator) -> Scene:
    height, width = size
    pixels = torch.zeros(3, height, width)
    for cells, share in ((6, 0.5), (24, 0.3), (max(size), 0.2)):  # blotches, texture, grain
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        pixels += share * F.interpolate(noise, size=size, mode="bilinear", antialias=False)[0]
    boxes = _boxes(size, objects, generator)
    for x1, y1, x2, y2 in boxes.round().long().tolist():
        window = pixels[:, y1:y2, x1:x2]
        down = torch.linspace(-1, 1, window.shape[1])[:, None]
        across = torch.linspace(-1, 1, window.shape[2])
        colour = torch.rand(3, 1, 1, generator=generator)
        # An ellipse that lets a part of the texture through.
        window.copy_(torch.where(down**2 + across**2 <= 1, 0.7 * colour + 0.3 * window, window))
    none = torch.zeros(objects, dtype=torch.bool)
    ground_truth = GroundTruth(
        boxes=boxes,
        labels=torch.randint(1, classes + 1, (objects,), generator=generator),
        difficult=none,
        crowd=none.clone(),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(dim=1),
    )
    return Scene(pixels, ground_truth)


def _boxes(size: tuple[int, int], objects: int, generator: torch.Generator) -> Float[Tensor, "N 4"]:
    """Draw boxes whose sides are spread evenly over the powers of two, as those of photographs."""
    whole = torch.tensor([size[1], size[0]], dtype=torch.float32)
    longest = (LARGEST * whole).clamp(min=1)
    shortest = longest.clamp(max=SMALLEST)
    powers = torch.rand(objects, 2, generator=generator)
    sides = shortest * (longest / shortest) ** powers
    first = torch.rand(objects, 2, generator=generator) * (whole - sides)
    return torch.cat([first, first + sides], dim=1)
