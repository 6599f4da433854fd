"""The anchors of every level of a backbone.

Letters: L levels, A anchors of all levels together, T templates of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from rcnn.ops.anchors import Rounding, templates, tile
from rcnn.settings import Fraction, SettingsError, require, settings


@settings
class AnchorSettings:
    """The anchors of every cell (Faster R-CNN, section 3.1.1).

    Attributes:
        scales: square roots of the areas, in strides of the level: 8, 16, 32 at stride 16 are
            128, 256 and 512 pixels. With a feature pyramid ``[8]`` gives 32 to 512.
        ratios: heights divided by widths.
        sizes: square roots of the areas in pixels, one list per level, instead of ``scales``.
        offset: position of the centres in their cells, in strides.
        rounding: rounding of the templates, see ``rcnn.ops.anchors.templates``.
        spacing: distance between the centres: ``stride``, or ``grid`` for image size divided by
            number of cells, rounded down, as in torchvision (it differs at the top of a pyramid).
    """

    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (8.0, 16.0, 32.0)
    ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    sizes: tuple[Annotated[tuple[PositiveFloat, ...], Field(min_length=1)], ...] | None = None
    offset: Fraction = 0.5
    rounding: Literal["none", "nearest", "caffe"] = "none"
    spacing: Literal["stride", "grid"] = "stride"

    def __post_init__(self) -> None:
        if self.sizes is not None:
            equal = len({len(level) for level in self.sizes}) == 1
            require(equal, "sizes", self.sizes, "it should list equally many numbers per level")

    @property
    def per_cell(self) -> int:
        """The number of anchors of a cell."""
        return len(self.ratios) * len(self.sizes[0] if self.sizes else self.scales)


class AnchorGrid(nn.Module):
    """Lays the anchors of all levels over an image."""

    def __init__(self, settings: AnchorSettings, strides: Sequence[int]) -> None:
        super().__init__()
        if settings.sizes is not None and len(settings.sizes) != len(strides):
            raise SettingsError(
                f"sizes lists {len(settings.sizes)} levels, but the backbone has {len(strides)}."
            )
        self.settings = settings
        self.strides = tuple(strides)
        for level, stride in enumerate(strides):
            sizes = (
                settings.sizes[level] if settings.sizes else [s * stride for s in settings.scales]
            )
            rounding: Rounding = settings.rounding
            cell = templates(sizes, settings.ratios, rounding, float(stride))
            self.register_buffer(f"cell{level}", cell, persistent=False)

    def forward(
        self, grids: Sequence[tuple[int, int]], padded: tuple[int, int]
    ) -> Float[Tensor, "A 4"]:
        """Return the anchors of all levels, one level after another.

        Args:
            grids: (height, width) of each level's feature map.
            padded: (height, width) of the padded images, in pixels.
        """
        anchors = []
        for level, (grid, stride) in enumerate(zip(grids, self.strides, strict=True)):
            step = (float(stride), float(stride))
            if self.settings.spacing == "grid":
                step = (float(padded[0] // grid[0]), float(padded[1] // grid[1]))
            anchors.append(tile(self.get_buffer(f"cell{level}"), grid, step, self.settings.offset))
        return torch.cat(anchors)
