"""A whole detector against torchvision's, with the same weights and settings."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection import FasterRCNN as OracleDetector
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.losses import LossSettings
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.structures import Targets

SIZES = ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))


@pytest.fixture(scope="module")
def pair() -> tuple[FasterRCNN, OracleDetector]:
    torch.manual_seed(0)
    oracle = OracleDetector(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None),
        num_classes=4,
        min_size=96,
        max_size=160,
        rpn_anchor_generator=AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * 5),
        rpn_batch_size_per_image=10**5,
        rpn_positive_fraction=1.0,
        rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=150,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=100,
        box_batch_size_per_image=1000,
        box_positive_fraction=1.0,
        box_score_thresh=0.1,
    ).eval()
    for layer in (
        oracle.rpn.head.bbox_pred,
        oracle.rpn.head.cls_logits,
        oracle.roi_heads.box_predictor.cls_score,
        oracle.roi_heads.box_predictor.bbox_pred,
    ):
        layer.weight.data *= 20  # answers that differ
    settings = DetectorSettings(
        class_names=("cat", "dog", "hen"),
        images=ImageSettings(shorter_side=96, longer_side=160, antialias=False),
        backbone=BackboneSettings(
            name="resnet18_fpn", norm="frozen", frozen_stages=0, weights=None
        ),
        anchors=AnchorSettings(sizes=SIZES, offset=0.0, rounding="nearest", spacing="grid"),
        rpn=RPNSettings(channels=None, objectness="sigmoid"),
        anchor_sampling=AnchorSampling(samples=10**5, positive_fraction=1.0, skip_border_anchors=False),
        proposals=ProposalSettings(300, 150, 200, 100, min_size=1e-3),
        roi_sampling=RoISampling(samples=1000, samples_per="image", foreground_fraction=1.0),
        losses=LossSettings(roi_box_beta=1 / 9),
        detections=DetectionSettings(score=0.1, nms_iou=0.5, min_size=0.01),
    )
    ours = FasterRCNN(settings).eval()
    places = {
        "backbone.": "backbone.",
        "rpn.head.conv.0.0.": "rpn.conv.",
        "rpn.head.cls_logits.": "rpn.objectness.",
        "rpn.head.bbox_pred.": "rpn.deltas.",
        "roi_heads.box_head.": "regions.box_head.",
        "roi_heads.box_predictor.cls_score.": "regions.head.classes.",
        "roi_heads.box_predictor.bbox_pred.": "regions.head.boxes.",
    }
    weights = {}
    for key, value in oracle.state_dict().items():
        prefix = next(prefix for prefix in places if key.startswith(prefix))
        weights[places[prefix] + key.removeprefix(prefix)] = value
    ours.load_state_dict(weights)
    return ours, oracle


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in [(75, 100), (120, 80)]]


def test_detections_equal_torchvision(
    pair: tuple[FasterRCNN, OracleDetector], images: list[Tensor]
) -> None:
    ours, oracle = pair
    with torch.no_grad():
        expected = oracle(images)
    for found, its in zip(ours.detect(images), expected, strict=True):
        assert len(found) == len(its["boxes"]) > 20
        assert torch.equal(found.labels, its["labels"])
        assert_close(found.boxes, its["boxes"], atol=0.01, rtol=0.0)
        assert_close(found.scores, its["scores"], atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("count", [1, 3])
def test_losses_equal_torchvision(
    pair: tuple[FasterRCNN, OracleDetector], images: list[Tensor], count: int
) -> None:
    ours, oracle = pair
    boxes = torch.tensor(
        [[5.0, 5.0, 40.0, 60.0], [20.0, 30.0, 70.0, 70.0], [1.0, 40.0, 30.0, 72.0]]
    )
    labels = torch.tensor([1, 3, 2])
    annotations = [{"boxes": boxes[:count], "labels": labels[:count]}] * 2
    oracle.train()  # its norms are frozen and it has no dropout
    expected = oracle(images, annotations)
    oracle.eval()
    batch = ours.images.batch(images)
    scales = batch.scales.flip(-1).repeat(1, 2)[:, None]
    flags = torch.zeros(2, count).bool()
    targets = Targets(boxes[:count] * scales, labels[:count].expand(2, -1), flags, flags)
    losses = ours.losses(batch, targets)
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_boxes": "loss_rpn_box_reg",
        "roi_classes": "loss_classifier",
        "roi_boxes": "loss_box_reg",
    }
    for name, its_name in names.items():
        assert_close(losses.named[name], expected[its_name], atol=1e-5, rtol=1e-4)
