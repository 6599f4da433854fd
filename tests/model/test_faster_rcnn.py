"""Faster R-CNN as a whole; what every system does is in test_build."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
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
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.ops.boxes import iou
from rcnn.structures import Detections, ImageBatch, Targets
from tests.model.inputs import TINY, A, B, C, assert_all_trained, batch_of, noise_of, targets_of

# Samples so large that nothing is random.
ALL_SAMPLED = replace(
    TINY,
    anchor_sampling=AnchorSampling(samples=5000, positive_fraction=1.0),
    roi_sampling=RoISampling(samples=1000, samples_per="image", foreground_fraction=1.0),
)


def detector_of(settings: DetectorSettings, seed: int = 0) -> FasterRCNN:
    torch.manual_seed(seed)
    return FasterRCNN(settings)


@pytest.mark.parametrize("kind", ["roi_pool", "roi_align", "crop"])
@pytest.mark.parametrize("images", [[[]], [[A]], [[], [A, B, C]]])
def test_losses_of_every_kind_of_pooling_reach_every_parameter(
    images: list[Any], kind: Any
) -> None:
    detector = detector_of(replace(TINY, pooling=PoolingSettings(kind=kind, size=2)))
    losses = detector.losses(noise_of(*[(64, 96)] * len(images)), targets_of(*images))
    assert_all_trained(detector, losses, some=any(images))


TIMM = [f"timm/{name}" for name in ("resnet18", "convnext_atto", "vit_tiny_patch16_224")]
NAMES = ["resnet18", "efficientnet_lite0", *TIMM]


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}_fpn" for name in NAMES)])
def test_backbones_leave_no_parameter_unused(name: str) -> None:
    """Distributed training waits for ever on parameters without a gradient."""
    backbone = BackboneSettings(name, frozen_stages=1, weights=None, hidden=32, fpn_channels=16)
    scales = (4.0,) if name.endswith("fpn") else (1.0, 2.0, 3.0)
    images = replace(TINY.images, multiple=32)
    settings = replace(TINY, backbone=backbone, anchors=AnchorSettings(scales), images=images)
    detector, batch = detector_of(settings), noise_of((64, 96), (64, 96))
    for targets in (targets_of([A], [B, C]), targets_of([], [])):
        assert_all_trained(detector, detector.losses(batch, targets), some=False)
    frozen = [name for name, p in detector.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("backbone.") for name in frozen)
    assert len(detector.eval().detect([torch.rand(3, 50, 70)])) == 1
    one_class = detector_of(replace(settings, class_names=("thing",)))
    assert_all_trained(one_class, one_class.losses(batch, targets_of([A], [])), some=False)


@pytest.mark.parametrize("objectness", ["softmax", "sigmoid"])
@pytest.mark.parametrize("branches", ["shared", "separate"])
def test_every_kind_of_rpn_trains_and_detects(objectness: Any, branches: Any) -> None:
    rpn = RPNSettings(channels=16, objectness=objectness, branches=branches)
    detector = detector_of(replace(TINY, rpn=rpn))
    batch = noise_of((64, 96))
    assert_all_trained(detector, detector.losses(batch, targets_of([A, B, C])), some=True)
    assert len(detector.eval().detect(list(batch.pixels))[0]) > 0


def test_padded_ground_truth_does_not_change_the_losses() -> None:
    detector, images = detector_of(ALL_SAMPLED), [[A, B], [], [C]]
    batch = noise_of((64, 96), (64, 96), (64, 80))
    plain = detector.losses(batch, targets_of(*images))
    for padding in (1, 7):
        padded = detector.losses(batch, targets_of(*images, padding=padding))
        assert_close(padded.named, plain.named)


def test_the_same_image_twice_has_the_losses_of_one() -> None:
    detector, one = detector_of(ALL_SAMPLED), noise_of((64, 96))
    two = replace(batch_of((64, 96), (64, 96)), pixels=one.pixels.expand(2, -1, -1, -1))
    single = detector.losses(one, targets_of([A, B]))
    assert_close(detector.losses(two, targets_of([A, B], [A, B])).named, single.named)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"roi_sampling": RoISampling(samples=64, ohem=True)}, marks=pytest.mark.slow),
        pytest.param({"losses": LossSettings("giou", roi_box_loss="giou")}, marks=pytest.mark.slow),
    ],
)
def test_a_small_network_learns_one_picture_by_heart(changes: dict[str, Any]) -> None:
    settings = replace(TINY, roi_sampling=RoISampling(samples=64), pooling=PoolingSettings(size=4))
    detector = detector_of(replace(settings, **changes))
    picture = torch.zeros(3, 64, 96)
    picture[0, 16:48, 32:64] = 1.0
    batch, targets = detector.transform.batch([picture]), targets_of([(32.0, 16.0, 64.0, 48.0, 2)])
    optimiser = torch.optim.Adam(detector.parameters(), lr=0.005)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [80])
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        optimiser.zero_grad()
        detector.losses(batch, targets, generator).total.backward()
        optimiser.step()
        schedule.step()
    (found,) = detector.eval().detect([picture])
    assert found.names[0] == "dog"
    assert found.scores[0] > 0.5
    assert iou(found.boxes[:1], targets.boxes[0]).item() > 0.6


def test_detections_are_sorted_and_lie_in_the_original_image() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(32, 48), (640, 200), (200, 640), (64, 96)]
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    found = detector_of(TINY).eval().detect(images)
    for detections, (height, width) in zip(found, sizes, strict=True):
        assert len(detections) > 0
        assert torch.equal(detections.scores, detections.scores.sort(descending=True).values)
        x1, y1, x2, y2 = detections.boxes.unbind(-1)
        assert min(x1.min(), y1.min()) >= 0
        assert x2.max() <= width + 1e-3
        assert y2.max() <= height + 1e-3
        assert (x2 > x1).any()
        # the boxes of larger images reach beyond what the network saw
        assert height <= 64 or y2.max() > 100
        assert 1 <= detections.labels.min() <= detections.labels.max() <= 3


@pytest.mark.parametrize(
    "image",
    [
        torch.full((3, 50, 70), 127, dtype=torch.uint8),
        torch.zeros(3, 64, 64),
        torch.ones(3, 1, 1),
        torch.rand(3, 5, 7),
        torch.rand(3, 3, 300),
        torch.rand(3, 900, 700),
    ],
    ids=["grey", "black", "one pixel", "tiny", "strip", "large"],
)
def test_any_picture_can_be_detected_in(image: Tensor) -> None:
    (found,) = detector_of(TINY).eval().detect([image])
    assert isinstance(found, Detections)
    assert found.boxes.isfinite().all()


def test_an_image_is_detected_alike_in_any_batch() -> None:
    detector, images = detector_of(TINY).eval(), list(noise_of(*[(64, 96)] * 3).pixels)
    for image, together in zip(images, detector.detect(images), strict=True):
        (alone,) = detector.detect([image])
        assert_close(together.boxes, alone.boxes, atol=1e-3, rtol=0.0)
        assert torch.equal(together.labels, alone.labels)


class TestExactTraining:
    """The gradient is that of the whole loss, through the coordinates of the RoIs."""

    POOLINGS = (
        PoolingSettings(kind="roi_align", size=3),
        PoolingSettings(kind="roi_align", size=3, aligned=True),
        PoolingSettings(kind="crop", size=3),
        PoolingSettings(kind="crop", size=3, crop_max=True),
    )

    @pytest.fixture
    def inputs(self) -> tuple[ImageBatch, Targets]:
        batch = noise_of((64, 96), (60, 90))
        targets = targets_of([(10.0, 8.0, 60.0, 50.0, 1), (50.0, 20.0, 90.0, 60.0, 2)], [])
        double = replace(targets, boxes=targets.boxes.double())
        return replace(batch, pixels=batch.pixels.double()), double

    @staticmethod
    def detector(pooling: PoolingSettings) -> FasterRCNN:
        sampling = RoISampling(
            16, foreground_fraction=0.5, foreground_iou=0.2, background_high=0.2, append_gt=False
        )
        detector = detector_of(replace(TINY, pooling=pooling, roi_sampling=sampling)).double()
        for layer in detector.roi_heads.box_predictor.children():
            nn.init.normal_(layer.get_parameter("weight"), std=0.3)
        return detector

    @staticmethod
    def roi_losses(detector: FasterRCNN, inputs: tuple[ImageBatch, Targets], exact: bool) -> Tensor:
        losses = detector.losses(*inputs, torch.Generator().manual_seed(0), exact=exact)
        return losses.roi_classes + losses.roi_boxes

    @pytest.mark.parametrize("pooling", POOLINGS, ids=["align", "aligned", "crop", "crop_max"])
    def test_the_gradient_of_the_rpn_agrees_with_finite_differences(
        self, pooling: PoolingSettings, inputs: tuple[ImageBatch, Targets]
    ) -> None:
        detector = self.detector(pooling)
        bias = detector.rpn.head.bbox_pred.get_parameter("bias")
        (gradient,) = torch.autograd.grad(self.roi_losses(detector, inputs, exact=True), bias)
        assert gradient.abs().max() > 1e-4
        step = 1e-6
        for index in gradient.abs().topk(4).indices.tolist():
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    bias[index] += sign * step
                    values.append(self.roi_losses(detector, inputs, exact=True).item())
                    bias[index] -= sign * step
            slope = (values[0] - values[1]) / (2 * step)
            assert gradient[index].item() == pytest.approx(slope, rel=1e-3, abs=1e-7)

    @pytest.mark.parametrize("pooling", POOLINGS[::2], ids=["align", "crop"])
    def test_the_roi_heads_do_not_move_the_rpn_in_approximate_joint_training(
        self, pooling: PoolingSettings, inputs: tuple[ImageBatch, Targets]
    ) -> None:
        detector = self.detector(pooling)
        exact, joint = (self.roi_losses(detector, inputs, exact=exact) for exact in (True, False))
        assert_close(exact, joint)
        joint.backward()
        assert all(parameter.grad is None for parameter in detector.rpn.parameters())
        assert detector.roi_heads.box_predictor.bbox_pred.weight.grad is not None


class TestTorchvision:
    """Torchvision's detector with the same weights and settings."""

    SIZES = ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))
    PREFIXES = {  # noqa: RUF012
        "rpn.head.conv.0.0.": "rpn.head.conv.",
        "": "",
    }

    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls) -> tuple[FasterRCNN, OracleDetector]:
        torch.manual_seed(0)
        oracle = OracleDetector(
            resnet_fpn_backbone(backbone_name="resnet18", weights=None),
            num_classes=4,
            min_size=96,
            max_size=160,
            rpn_anchor_generator=AnchorGenerator(cls.SIZES, ((0.5, 1.0, 2.0),) * 5),
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
        outputs = oracle.rpn.head.bbox_pred, oracle.rpn.head.cls_logits
        for layer in (*outputs, *oracle.roi_heads.box_predictor.children()):
            layer.weight.data *= 20  # answers that differ
        ours = FasterRCNN(
            DetectorSettings(
                class_names=("cat", "dog", "hen"),
                images=ImageSettings(shorter_side=96, longer_side=160, antialias=False),
                backbone=BackboneSettings("resnet18_fpn", "frozen", frozen_stages=0, weights=None),
                anchors=AnchorSettings(
                    sizes=cls.SIZES, offset=0.0, rounding="nearest", spacing="grid"
                ),
                rpn=RPNSettings(channels=None, objectness="sigmoid"),
                anchor_sampling=AnchorSampling(
                    samples=10**5, positive_fraction=1.0, skip_border_anchors=False
                ),
                proposals=ProposalSettings(300, 150, 200, 100, min_size=1e-3),
                roi_sampling=ALL_SAMPLED.roi_sampling,
                losses=LossSettings(roi_box_beta=1 / 9),
                detections=DetectionSettings(score=0.1, nms_iou=0.5, min_size=0.01),
            )
        ).eval()
        weights = {}
        for key, value in oracle.state_dict().items():
            prefix = next(prefix for prefix in cls.PREFIXES if key.startswith(prefix))
            weights[cls.PREFIXES[prefix] + key.removeprefix(prefix)] = value
        ours.load_state_dict(weights)
        return ours, oracle

    @pytest.fixture
    def images(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        return [torch.rand(3, *size, generator=generator) for size in [(75, 100), (120, 80)]]

    def test_detections_are_equal(
        self, pair: tuple[FasterRCNN, OracleDetector], images: list[Tensor]
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
    def test_losses_are_equal(
        self, pair: tuple[FasterRCNN, OracleDetector], images: list[Tensor], count: int
    ) -> None:
        ours, oracle = pair
        boxes = torch.tensor([[5.0, 5, 40, 60], [20.0, 30, 70, 70], [1.0, 40, 30, 72]])[:count]
        labels = torch.tensor([1, 3, 2])[:count]
        oracle.train()  # its norms are frozen and it has no dropout
        expected = oracle(images, [{"boxes": boxes, "labels": labels}] * 2)
        oracle.eval()
        batch = ours.transform.batch(images)
        scales = batch.scales.flip(-1).repeat(1, 2)[:, None]
        flags = torch.zeros(2, count).bool()
        losses = ours.losses(batch, Targets(boxes * scales, labels.expand(2, -1), flags, flags))
        names = {
            "rpn_objectness": "loss_objectness",
            "rpn_boxes": "loss_rpn_box_reg",
            "roi_classes": "loss_classifier",
            "roi_boxes": "loss_box_reg",
        }
        theirs = {name: expected[its_name] for name, its_name in names.items()}
        assert_close(losses.named, theirs, atol=1e-5, rtol=1e-4)


class TestSeedDocument001:
    """The shapes that it prints on its way through Faster R-CNN with VGG-16."""

    OBJECTS = ((30.0, 20.0, 500.0, 400.0, 6), (400.0, 300.0, 600.0, 500.0, 8))

    @pytest.mark.slow
    def test_from_the_image_to_the_losses(self) -> None:
        detector = detector_of(
            DetectorSettings(
                class_names=tuple(f"class {k}" for k in range(1, 21)),
                backbone=BackboneSettings("vgg16", weights=None, frozen_stages=0),
                pooling=PoolingSettings(kind="roi_pool"),
                images=ImageSettings(shorter_side=800, longer_side=800),
            )
        )
        shapes: dict[str, tuple[int, ...]] = {}

        def remember(name: str) -> Callable[..., None]:
            def hook(_module: object, inputs: tuple[object, ...], output: object) -> None:
                if isinstance(inputs[0], Tensor):  # the RPN and its head take a list of levels
                    shapes[f"{name} in"] = tuple(inputs[0].shape)
                if isinstance(output, Tensor):
                    shapes[name] = tuple(output.shape)

            return hook

        for name, module in detector.named_modules():
            module.register_forward_hook(remember(name))
        batch = detector.transform.batch([torch.zeros(3, 800, 800)])
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            run = detector.training_outputs(batch, targets_of(self.OBJECTS), generator)
        assert shapes["rpn.head.conv in"] == (1, 512, 50, 50)
        assert shapes["rpn.head.bbox_pred"] == (1, 36, 50, 50)
        assert shapes["rpn.head.cls_logits"] == (1, 18, 50, 50)
        assert shapes["roi_heads.box_head in"] == (128, 512, 7, 7)
        assert shapes["roi_heads.box_head.fc6 in"] == (128, 25_088)
        assert shapes["roi_heads.box_head.fc6"] == shapes["roi_heads.box_head.fc7"] == (128, 4_096)
        assert shapes["roi_heads.box_predictor.bbox_pred"] == (128, 84)
        assert shapes["roi_heads.box_predictor.cls_score"] == (128, 21)
        assert run.anchors is not None
        assert len(run.anchors) == 22_500
        assert (run.anchor_samples.labels == 1).sum() == 18
        assert (run.anchor_samples.labels == 0).sum() == 238
        assert run.losses.total.isfinite()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["roi_pool", "roi_align", "crop"])
def test_a_gpu_computes_what_a_cpu_does(kind: Any) -> None:
    detector = detector_of(replace(ALL_SAMPLED, pooling=PoolingSettings(kind=kind, size=2))).eval()
    images, targets = [torch.rand(3, 128, 192), torch.rand(3, 64, 96)], targets_of([A, B], [C])
    losses = detector.losses(detector.transform.batch(images), targets)
    found = detector.detect(images)
    detector.cuda()
    batch, generator = detector.transform.batch(images), torch.Generator("cuda").manual_seed(0)
    on_gpu = detector.losses(batch, targets.to("cuda"), generator)
    for name, term in losses.named.items():  # convolutions may run in TF32
        assert_close(on_gpu.named[name].cpu(), term, atol=0.02, rtol=0.02)
    for one, other in zip(detector.detect(images), found, strict=True):
        assert one.boxes.device.type == "cuda"
        assert abs(len(one) - len(other)) <= 3
    assert len(detector.detect([(255 * image).to(torch.uint8) for image in images])) == 2
