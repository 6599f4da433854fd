"""Images and objects to draw."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rcnn.structures import Detections, GroundTruth

CLASS_NAMES = ("cat", "dog", "sheep")


@pytest.fixture
def class_names() -> tuple[str, ...]:
    return CLASS_NAMES


@pytest.fixture
def image() -> Tensor:
    """A noisy image of 330 rows and 400 columns: large enough that it is not enlarged."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(90, 160, (3, 330, 400), dtype=torch.uint8, generator=generator)


@pytest.fixture
def detected() -> Callable[..., Detections]:
    """Makes detections from rows of (x1, y1, x2, y2, score, label)."""

    def build(*rows: tuple[float, ...], names: tuple[str, ...] = CLASS_NAMES) -> Detections:
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
        return Detections(table[:, :4], table[:, 4], table[:, 5].long(), names)

    return build


@pytest.fixture
def annotated() -> Callable[..., GroundTruth]:
    """Makes ground truth from rows of (x1, y1, x2, y2, label) and the rows that do not count."""

    def build(
        *rows: tuple[float, ...], difficult: tuple[int, ...] = (), crowd: tuple[int, ...] = ()
    ) -> GroundTruth:
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
        index = torch.arange(len(table))
        return GroundTruth(
            boxes=table[:, :4],
            labels=table[:, 4].long(),
            difficult=torch.isin(index, torch.tensor(difficult, dtype=torch.long)),
            crowd=torch.isin(index, torch.tensor(crowd, dtype=torch.long)),
            areas=(table[:, 2] - table[:, 0]) * (table[:, 3] - table[:, 1]),
        )

    return build


@pytest.fixture
def has_colour() -> Callable[[Tensor, tuple[int, int, int]], bool]:
    """Returns whether some pixel of a picture has exactly this colour."""

    def test(picture: Tensor, colour: tuple[int, int, int]) -> bool:
        target = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
        return bool((picture == target).all(0).any())

    return test
