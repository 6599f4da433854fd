"""Published numbers and random boxes for the tests of the arithmetic."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def geometry() -> dict[str, Any]:
    """Cases with their sources, see the file."""
    return json.loads((Path(__file__).parent / "fixtures" / "geometry.json").read_text())


@pytest.fixture(scope="session")
def random_boxes() -> Callable[..., Tensor]:
    """``random_boxes(seed, *shape, extent=100)``: boxes of every size inside a square."""

    def draw(seed: int, *shape: int, extent: float = 100.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        corners = torch.rand(*shape, 2, 2, generator=generator).sort(dim=-2).values
        return corners.flatten(-2) * extent

    return draw
