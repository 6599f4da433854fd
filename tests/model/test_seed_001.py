"""The shapes that seed document 001 prints on its way through Faster R-CNN with VGG16."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcnn.model.anchors import AnchorGrid, AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.box_predictor import BoxPredictor, BoxPredictorSettings
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposals import ProposalSettings, propose
from rcnn.model.roi_pooling import PoolingSettings, pool_rois
from rcnn.model.rpn import RPNHead, RPNSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import RoISampling, sample_rois
from rcnn.structures import ImageBatch, Targets

MakeBatch = Callable[..., ImageBatch]
MakeTargets = Callable[..., Targets]

OBJECTS = [(30.0, 20.0, 500.0, 400.0, 6), (400.0, 300.0, 600.0, 500.0, 8)]


def test_from_the_features_to_the_outputs(batch_of: MakeBatch, targets_of: MakeTargets) -> None:
    torch.manual_seed(0)
    features, batch = torch.randn(1, 512, 50, 50).relu(), batch_of((800, 800))
    anchors = AnchorGrid(AnchorSettings(), strides=[16])([(50, 50)], (800, 800))
    head = RPNHead(RPNSettings(), in_channels=512, anchors_per_cell=9)
    assert head.conv.weight.shape == (512, 512, 3, 3)
    assert head.deltas.out_channels == 36
    assert head.objectness.out_channels == 18
    with torch.no_grad():
        output = head([features])
    assert output.logits[0].shape == (1, 22_500)
    assert output.deltas[0].shape == (1, 22_500, 4)

    inputs = (anchors, output.logits, output.deltas, batch)
    unsuppressed = ProposalSettings(after_nms_train=30_000, nms_iou=1.0, min_size=0.0)
    assert propose(*inputs, unsuppressed, train=True).valid.sum() == 12_000
    proposals = propose(*inputs, ProposalSettings(), train=True)
    assert proposals.boxes.shape == (1, 2_000, 4)
    assert 500 < proposals.valid.sum() <= 2_000

    targets, unit = targets_of(OBJECTS), torch.ones(21, 4)
    rois = sample_rois(proposals, targets, RoISampling(), 0 * unit, unit)
    assert rois.boxes.shape == (1, 128, 4)
    assert 2 <= (rois.labels > 0).sum() <= 32
    assert set(rois.labels.unique().tolist()) <= {0, 6, 8}

    pooled = pool_rois([features], [16], rois.boxes, PoolingSettings(kind="roi_pool"))
    assert pooled.shape == (128, 512, 7, 7)
    assert pooled.flatten(1).shape == (128, 25_088)
    outputs = BoxPredictor(BoxPredictorSettings(), in_channels=4096, num_classes=20)
    assert outputs.boxes.weight.shape == (84, 4096)
    assert outputs.classes.weight.shape == (21, 4096)


@pytest.mark.slow
def test_from_the_image_to_the_losses(targets_of: MakeTargets) -> None:
    settings = DetectorSettings(
        class_names=tuple(f"class {k}" for k in range(1, 21)),
        backbone=BackboneSettings(name="vgg16", weights=None, frozen_stages=0),
        pooling=PoolingSettings(kind="roi_pool"),
    )
    settings = replace(settings, images=replace(settings.images, shorter_side=800, longer_side=800))
    torch.manual_seed(0)
    detector = FasterRCNN(settings)
    shapes: dict[str, tuple[int, ...]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(_module: object, inputs: tuple[Tensor, ...], output: object) -> None:
            shapes[f"{name} in"] = tuple(inputs[0].shape)
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape)

        return hook

    modules = dict(detector.named_modules())
    for name in (
        *("rpn.conv", "rpn.deltas", "rpn.objectness", "regions.box_head"),
        *("regions.box_head.fc6", "regions.box_head.fc7", "regions.head.boxes", "regions.head.classes"),
    ):
        modules[name].register_forward_hook(remember(name))
    batch = detector.images.batch([torch.zeros(3, 800, 800)])
    with torch.no_grad():
        run = detector.training_outputs(batch, targets_of(OBJECTS), torch.Generator().manual_seed(0))
    assert shapes["rpn.conv in"] == (1, 512, 50, 50)
    assert shapes["rpn.deltas"] == (1, 36, 50, 50)
    assert shapes["rpn.objectness"] == (1, 18, 50, 50)
    assert shapes["regions.box_head in"] == (128, 512, 7, 7)
    assert shapes["regions.box_head.fc6 in"] == (128, 25_088)
    assert shapes["regions.box_head.fc6"] == shapes["regions.box_head.fc7"] == (128, 4_096)
    assert shapes["regions.head.boxes"] == (128, 84)
    assert shapes["regions.head.classes"] == (128, 21)
    assert run.anchors is not None
    assert len(run.anchors) == 22_500
    assert run.anchor_samples is not None
    assert (run.anchor_samples.labels == 1).sum() == 18
    assert (run.anchor_samples.labels == 0).sum() == 238
    assert run.losses.total.isfinite()
