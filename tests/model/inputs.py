"""Small images, ground truth, proposals and detectors for the tests of the model."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import Backbone, BackboneSettings, BoxHead, SplitNetwork
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.structures import ImageBatch, Losses, Proposals, Targets

Object = tuple[float, float, float, float, int]
"""A box and its label."""

A = (10.0, 10.0, 50.0, 40.0, 1)
B = (30.0, 30.0, 90.0, 62.0, 2)
C = (60.0, 5.0, 85.0, 30.0, 3)
NO_ONE_AND_THREE_OBJECTS: list[list[list[Object]]] = [[[], []], [[A], []], [[A, B, C], [B]]]
"""Ground truth of minibatches of two images."""


def batch_of(*sizes: tuple[int, int], scale: float = 1.0) -> ImageBatch:
    """Return black images that were resized by ``scale`` before."""
    table = torch.tensor(sizes)
    height, width = ((side + 31) // 32 * 32 for side in table.amax(0).tolist())
    pixels = torch.zeros(len(sizes), 3, height, width)
    return ImageBatch(pixels, table, (table / scale).round().long())


def noise_of(*sizes: tuple[int, int], seed: int = 0) -> ImageBatch:
    """Return images of noise."""
    batch, generator = batch_of(*sizes), torch.Generator().manual_seed(seed)
    return replace(batch, pixels=torch.rand(batch.pixels.shape, generator=generator))


def targets_of(
    *images: Sequence[Object],
    padding: int = 0,
    difficult: Sequence[tuple[int, int]] = (),
    crowd: Sequence[tuple[int, int]] = (),
) -> Targets:
    """Return the ground truth of some images; difficult and crowd are (image, index) of objects."""
    slots = max(len(image) for image in images) + padding
    flags = torch.zeros(len(images), slots, dtype=torch.bool)
    boxes, labels = torch.zeros(len(images), slots, 4), torch.zeros(len(images), slots).long()
    targets = Targets(boxes, labels, flags, flags.clone())
    for i, image in enumerate(images):
        for j, (*box, label) in enumerate(image):
            boxes[i, j], labels[i, j] = torch.tensor(box), label
    for flag, objects in ((targets.difficult, difficult), (targets.crowd, crowd)):
        for i, j in objects:
            flag[i, j] = True
    return targets


def proposals_of(boxes: Tensor, valid: Tensor | None = None) -> Proposals:
    """Return proposals of falling scores; all are valid unless told otherwise."""
    scores = torch.linspace(0.9, 0.1, boxes.shape[1]).expand(boxes.shape[:2])
    return Proposals(boxes, scores, torch.ones_like(scores).bool() if valid is None else valid)


class TinyBackbone(Backbone):
    """One convolution: stride 16, 8 channels."""

    def __init__(self) -> None:
        super().__init__(strides=(16,), channels=8, roi_levels=1)
        self.conv = nn.Conv2d(3, 8, kernel_size=16, stride=16)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.conv(pixels).relu()]


class TinyHead(BoxHead):
    """One linear layer on all pooled cells."""

    def __init__(self, cells: int) -> None:
        super().__init__(channels=16)
        self.linear = nn.Linear(8 * cells, 16)

    def forward(self, pooled: Tensor) -> Tensor:
        hidden: Tensor = self.linear(pooled.flatten(1))
        return hidden.relu()


def build_tiny_network(settings: BackboneSettings, cells: int) -> SplitNetwork:
    """Build a user's own network, which the settings name by its dotted path."""
    return SplitNetwork(TinyBackbone(), TinyHead(cells))


TINY = DetectorSettings(
    class_names=("cat", "dog", "hen"),
    backbone=BackboneSettings(name=f"{__name__}.build_tiny_network", weights=None),
    images=ImageSettings(shorter_side=64, longer_side=96, multiple=16),
    anchors=AnchorSettings(scales=(1.0, 2.0, 3.0)),
    rpn=RPNSettings(channels=16),
    anchor_sampling=AnchorSampling(samples=32),
    proposals=ProposalSettings(100, 40, 60, 20, min_size=4.0),
    roi_sampling=RoISampling(samples=16),
    pooling=PoolingSettings(size=2),
    detections=DetectionSettings(score=0.01),
)
"""A detector that takes milliseconds: 4 x 6 cells of 9 anchors each."""

ONE_CLASS = replace(TINY, class_names=("cat",))


def assert_all_trained(detector: nn.Module, losses: Losses, *, some: bool) -> None:
    """Check that the losses give every trained parameter a finite gradient.

    Args:
        detector: its gradients are those of the losses afterwards.
        losses: differentiable terms.
        some: whether there are objects, without which box layers learn nothing.
    """
    detector.zero_grad(set_to_none=True)
    losses.total.backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert not some or parameter.grad.any(), name
