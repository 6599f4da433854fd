"""Synthetic photographs: texture, grain, and coloured ellipses of all sizes, from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rcnn.structures import GroundTruth

SMALLEST, LARGEST = 24.0, 0.6
"""Range of an object's sides: pixels, and fraction of the image's side."""


@dataclass(frozen=True)
class SyntheticImage:
    """Pixels in 0..1, and the objects in them."""

    pixels: Float[Tensor, "3 h w"]
    ground_truth: GroundTruth


def draw(
    size: tuple[int, int], objects: int, classes: int, count: int, seed: int = 0
) -> list[SyntheticImage]:
    """Draw images of one size.

    Args:
        size: (height, width) in pixels.
        objects: number of objects per image; they may occlude each other.
        classes: K.
        count: number of images.
        seed: seed of the whole list.
    """
    generator = torch.Generator().manual_seed(seed)
    return [_draw(size, objects, classes, generator) for _ in range(count)]


def _draw(
    size: tuple[int, int], objects: int, classes: int, generator: torch.Generator
) -> SyntheticImage:
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
        # A translucent ellipse, so that the texture remains visible.
        window.copy_(torch.where(down**2 + across**2 <= 1, 0.7 * colour + 0.3 * window, window))
    none = torch.zeros(objects, dtype=torch.bool)
    ground_truth = GroundTruth(
        boxes=boxes,
        labels=torch.randint(1, classes + 1, (objects,), generator=generator),
        difficult=none,
        crowd=none.clone(),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(dim=1),
    )
    return SyntheticImage(pixels, ground_truth)


def _boxes(size: tuple[int, int], objects: int, generator: torch.Generator) -> Float[Tensor, "N 4"]:
    """Draw boxes with log-uniform sides, as photographs have them."""
    whole = torch.tensor([size[1], size[0]], dtype=torch.float32)
    longest = (LARGEST * whole).clamp(min=1)
    shortest = longest.clamp(max=SMALLEST)
    powers = torch.rand(objects, 2, generator=generator)
    sides = shortest * (longest / shortest) ** powers
    first = torch.rand(objects, 2, generator=generator) * (whole - sides)
    return torch.cat([first, first + sides], dim=1)
