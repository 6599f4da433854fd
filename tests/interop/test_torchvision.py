"""A torchvision detector and what became of it find and learn the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection import FasterRCNN

from rcnn.interop import from_torchvision
from rcnn.ops.boxes import scale
from rcnn.structures import Detections, GroundTruth, ImageBatch, Targets

Assemble = Callable[..., FasterRCNN]
Lively = Callable[[FasterRCNN], FasterRCNN]
NAMES = ["resnet50_fpn", "vgg16_c4", "mobilenet_fpn", "resnet18_fpn", "resnet18_c4"]

TRUTH = [
    ([[10.0, 20.0, 70.0, 90.0], [60.0, 5.0, 140.0, 60.0], [90.0, 50.0, 120.0, 95.0]], [1, 4, 2]),
    ([], []),
    ([[30.0, 30.0, 100.0, 110.0]], [3]),
]


def _assert_same_detections(ours: Detections, theirs: dict[str, Tensor]) -> None:
    """One detection of ours for each of theirs, in whatever order equal scores stand."""
    assert len(ours) == len(theirs["boxes"])
    same = (ours.labels[:, None] == theirs["labels"]) & (
        (ours.scores[:, None] - theirs["scores"]).abs() < 1e-4
    )
    same &= ((ours.boxes[:, None] - theirs["boxes"]).abs() < 0.01).all(dim=2)
    assert same.any(dim=0).all()
    assert same.any(dim=1).all()
    assert_close(ours.scores, theirs["scores"], atol=1e-4, rtol=0)


def _ground_truth() -> list[GroundTruth]:
    ground_truth = []
    for boxes, labels in TRUTH:
        flags = torch.zeros(len(labels), dtype=torch.bool)
        ground_truth.append(
            GroundTruth(
                boxes=torch.tensor(boxes).reshape(-1, 4),
                labels=torch.tensor(labels, dtype=torch.long),
                difficult=flags,
                crowd=flags,
                areas=torch.zeros(len(labels)),
            )
        )
    return ground_truth


def _resized(targets: Targets, batch: ImageBatch) -> Targets:
    boxes = scale(targets.boxes, batch.scales)
    return Targets(boxes, targets.labels, targets.difficult, targets.crowd)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_images_give_the_same_detections_and_losses(
    name: str, assemble: Assemble, lively: Lively, images: list[Tensor]
) -> None:
    model = lively(assemble(name))
    detector = from_torchvision(model)
    assert not detector.training

    # Proposals and detections
    proposals: list[Tensor] = []
    hook = model.rpn.register_forward_hook(lambda *call: proposals.extend(call[2][0]))
    with torch.no_grad():
        expected = model(images)
    hook.remove()
    batch = detector.images.batch(images)
    detections, found = detector.detect_batch(batch)
    for i, boxes in enumerate(proposals):
        ours = found.boxes[i, found.valid[i]]
        assert ours.shape == boxes.shape
        distance = (ours[:, None] - boxes).abs().amax(dim=2)
        assert distance.min(dim=0).values.max() < 0.01
        assert distance.min(dim=1).values.max() < 0.01
    for one, other in zip(detections, expected, strict=True):
        assert len(one) > 30
        assert len(one.labels.unique()) >= 3
        _assert_same_detections(one, other)

    # Losses
    ground_truth = _ground_truth()
    targets = [{"boxes": image.boxes, "labels": image.labels} for image in ground_truth]
    with torch.no_grad():
        terms = model.train()(images, targets)
        losses = detector.train().losses(batch, _resized(Targets.pad(ground_truth), batch))
    assert losses.rpn_objectness is not None
    assert losses.rpn_boxes is not None
    assert_close(losses.rpn_objectness, terms["loss_objectness"], rtol=1e-4, atol=0)
    assert_close(losses.rpn_boxes, terms["loss_rpn_box_reg"], rtol=1e-4, atol=0)
    assert_close(losses.roi_classes, terms["loss_classifier"], rtol=1e-4, atol=0)
    assert_close(losses.roi_boxes, terms["loss_box_reg"], rtol=1e-4, atol=0)
    assert losses.counts is not None
    assert losses.counts.rois_foreground > 4
