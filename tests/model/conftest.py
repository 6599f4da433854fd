"""Small batches, ground truth and a backbone of a few cells for the tests of the stages."""

import json
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import SplitNetwork, BackboneSettings, Backbone, BoxHead
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.structures import ImageBatch, Proposals, Targets

Object = tuple[float, float, float, float, int]


@pytest.fixture(scope="session")
def geometry() -> dict[str, Any]:
    """Published cases with their sources, see the file."""
    path = Path(__file__).parents[1] / "ops" / "fixtures" / "geometry.json"
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def random_boxes() -> Callable[..., Tensor]:
    """``random_boxes(seed, *shape, extent=100)``: boxes of every size inside a square."""

    def draw(seed: int, *shape: int, extent: float = 100.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        corners = torch.rand(*shape, 2, 2, generator=generator).sort(dim=-2).values
        return corners.flatten(-2) * extent

    return draw


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., ImageBatch]:
    """``batch_of((height, width), ..., scale=1)``: black images, resized by ``scale`` before."""

    def build(*sizes: tuple[int, int], scale: float = 1.0) -> ImageBatch:
        table = torch.tensor(sizes)
        height, width = ((side + 31) // 32 * 32 for side in table.amax(0).tolist())
        pixels = torch.zeros(len(sizes), 3, height, width)
        return ImageBatch(pixels, table, (table / scale).round().long())

    return build


@pytest.fixture(scope="session")
def targets_of() -> Callable[..., Targets]:
    """``targets_of([(x1, y1, x2, y2, label), ...], ..., padding=0)``: one list per image.

    ``difficult`` and ``crowd`` name objects as (image, position).
    """

    def build(
        *images: Sequence[Object],
        padding: int = 0,
        difficult: Sequence[tuple[int, int]] = (),
        crowd: Sequence[tuple[int, int]] = (),
    ) -> Targets:
        places = max(len(image) for image in images) + padding
        targets = Targets(
            boxes=torch.zeros(len(images), places, 4),
            labels=torch.zeros(len(images), places, dtype=torch.long),
            difficult=torch.zeros(len(images), places, dtype=torch.bool),
            crowd=torch.zeros(len(images), places, dtype=torch.bool),
        )
        for i, image in enumerate(images):
            for j, (*box, label) in enumerate(image):
                targets.boxes[i, j] = torch.tensor(box)
                targets.labels[i, j] = label
        for i, j in difficult:
            targets.difficult[i, j] = True
        for i, j in crowd:
            targets.crowd[i, j] = True
        return targets

    return build


@pytest.fixture(scope="session")
def proposals_of() -> Callable[..., Proposals]:
    """``proposals_of(boxes B P 4)``: all valid, best first."""

    def build(boxes: Tensor) -> Proposals:
        scores = torch.linspace(0.9, 0.1, boxes.shape[1]).expand(boxes.shape[:2])
        return Proposals(boxes, scores, torch.ones(boxes.shape[:2]).bool())

    return build


class TinyBody(Backbone):
    """One convolution: stride 16, 8 channels."""

    def __init__(self) -> None:
        super().__init__(strides=(16,), channels=8, roi_levels=1)
        self.conv = nn.Conv2d(3, 8, kernel_size=16, stride=16)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.conv(pixels).relu()]


class TinyTail(BoxHead):
    """One linear layer on all pooled cells."""

    def __init__(self, cells: int) -> None:
        super().__init__(channels=16)
        self.linear = nn.Linear(8 * cells, 16)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.linear(pooled.flatten(1)).relu()


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> BackboneSettings:
    """A user's own backbone, named by its dotted path."""

    def build(settings: BackboneSettings, cells: int) -> SplitNetwork:
        return SplitNetwork(TinyBody(), TinyTail(cells))

    module = types.ModuleType("tiny_network")
    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiny_network", module)
    return BackboneSettings(name="tiny_network.build")


@pytest.fixture
def tiny(tiny_backbone: BackboneSettings) -> DetectorSettings:
    """A detector that takes milliseconds: 4 x 6 cells, 9 anchors each."""
    return DetectorSettings(
        class_names=("cat", "dog", "hen"),
        backbone=tiny_backbone,
        images=ImageSettings(shorter_side=64, longer_side=96, multiple=16),
        anchors=AnchorSettings(scales=(1.0, 2.0, 3.0)),
        rpn=RPNSettings(channels=16),
        anchor_sampling=AnchorSampling(samples=32),
        proposals=ProposalSettings(100, 40, 60, 20, min_size=4.0),
        roi_sampling=RoISampling(samples=16),
        pooling=PoolingSettings(size=2),
        detections=DetectionSettings(score=0.01),
    )
