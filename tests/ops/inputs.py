"""Published numbers and random boxes for the tests of ops, kernels and model."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GEOMETRY: dict[str, Any] = json.loads(
    (Path(__file__).parent / "fixtures" / "geometry.json").read_text()
)
"""Cases with their sources, see the file."""


def random_boxes(seed: int, *shape: int, extent: float = 100.0) -> Tensor:
    """Return boxes of every size inside a square."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, 2, generator=generator).sort(dim=-2).values
    return corners.flatten(-2) * extent
