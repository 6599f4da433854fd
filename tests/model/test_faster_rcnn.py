"""Whole detectors: losses, detections, and torchvision's detector with the same weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposals import ProposalSettings
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.ops.boxes import iou
from rcnn.settings import SettingsError, from_plain, to_plain
from rcnn.structures import Detections, ImageBatch, Losses, Targets

MakeBatch = Callable[..., ImageBatch]
MakeTargets = Callable[..., Targets]
Boxes = Callable[..., Tensor]

NAMES = ("cat", "dog", "hen")
A = (10.0, 10.0, 50.0, 40.0, 1)
B = (30.0, 30.0, 90.0, 62.0, 2)
C = (60.0, 5.0, 85.0, 30.0, 3)
# so large that nothing is left to chance
EVERY_ANCHOR = AnchorSampling(samples=5000, positive_fraction=1.0)
EVERY_ROI = RoISampling(samples=1000, samples_per="image", foreground_fraction=1.0)


def _real(name: str, **changes: Any) -> DetectorSettings:
    pyramid = name.endswith("fpn")
    return DetectorSettings(
        class_names=NAMES,
        backbone=BackboneSettings(name=name, weights=None, hidden=32, fpn_channels=16, **changes),
        images=ImageSettings(shorter_side=64, longer_side=96),
        anchors=AnchorSettings(scales=(4.0,) if pyramid else (1.0, 2.0, 3.0)),
        rpn=RPNSettings(channels=16),
        proposals=ProposalSettings(100, 40, 60, 20, min_size=4.0),
        roi_sampling=RoISampling(samples=16),
    )


def _faster(settings: DetectorSettings, seed: int = 0) -> FasterRCNN:
    torch.manual_seed(seed)
    return FasterRCNN(settings)


def _noise(batch: ImageBatch, seed: int = 0) -> ImageBatch:
    generator = torch.Generator().manual_seed(seed)
    return replace(batch, pixels=torch.rand(batch.pixels.shape, generator=generator))


def _assert_equal(ours: Losses, theirs: Losses) -> None:
    for name, term in ours.named.items():
        assert_close(term, theirs.named[name], msg=lambda text, name=name: f"{name}: {text}")


def _gradients(detector: nn.Module, losses: Losses) -> dict[str, Tensor | None]:
    """Of every parameter that learns."""
    detector.zero_grad(set_to_none=True)
    losses.total.backward()
    return {name: p.grad for name, p in detector.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("images", [[[]], [[A]], [[A, B, C]], [[], [A, B, C]]])
@pytest.mark.parametrize("kind", ["roi_pool", "roi_align", "crop"])
def test_losses_are_finite_and_reach_every_parameter(
    tiny: DetectorSettings,
    batch_of: MakeBatch,
    targets_of: MakeTargets,
    images: list[Any],
    kind: Any,
) -> None:
    detector = _faster(replace(tiny, pooling=PoolingSettings(kind=kind, size=2)))
    batch = _noise(batch_of(*[(64, 96)] * len(images)))
    losses = detector.losses(batch, targets_of(*images))
    assert set(losses.named) == {"rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes"}
    assert_close(losses.total, sum(losses.named.values()))
    assert all(term.isfinite() for term in losses.named.values())
    assert losses.rpn_objectness > 0
    assert losses.roi_classes > 0
    some = any(images)
    assert (losses.rpn_boxes > 0) == some
    assert (losses.roi_boxes > 0) == some
    for name, gradient in _gradients(detector, losses).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert not some or gradient.any(), name


@pytest.mark.parametrize("name", ["resnet18", "resnet18_fpn"])
def test_shipped_backbones_leave_no_parameter_unused(
    batch_of: MakeBatch, targets_of: MakeTargets, name: str
) -> None:
    """Distributed training hangs on parameters without a gradient."""
    detector = _faster(_real(name, frozen_stages=1))
    batch = _noise(batch_of((64, 96), (64, 96)))
    for targets in (targets_of([A], [B, C]), targets_of([], [])):
        gradients = _gradients(detector, detector.losses(batch, targets))
        assert all(g is not None and g.isfinite().all() for g in gradients.values())
    frozen = [name for name, p in detector.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("backbone.") for name in frozen)


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("objectness", ["softmax", "sigmoid"])
def test_every_kind_of_head_learns_and_detects(
    tiny: DetectorSettings,
    batch_of: MakeBatch,
    targets_of: MakeTargets,
    class_agnostic: bool,
    objectness: Any,
) -> None:
    settings = replace(
        tiny,
        rpn=RPNSettings(channels=16, objectness=objectness, branches="separate"),
        box_predictor=BoxPredictorSettings(class_agnostic=class_agnostic),
    )
    detector, batch = _faster(settings), _noise(batch_of((64, 96)))
    gradients = _gradients(detector, detector.losses(batch, targets_of([A, B, C])))
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())
    assert len(detector.eval().detect(list(batch.pixels))[0]) > 0


def test_a_generator_makes_the_losses_reproducible(
    tiny: DetectorSettings, batch_of: MakeBatch, targets_of: MakeTargets
) -> None:
    detector, batch = _faster(tiny), _noise(batch_of((64, 96), (64, 96)))
    targets, before = targets_of([A, B], [C]), torch.get_rng_state()

    def losses(seed: int) -> Losses:
        return detector.losses(batch, targets, torch.Generator().manual_seed(seed))

    for first, same in zip(losses(1).named.values(), losses(1).named.values(), strict=True):
        assert torch.equal(first, same)
    assert losses(1).total != losses(2).total
    assert torch.equal(torch.get_rng_state(), before)


def test_padded_ground_truth_does_not_change_the_losses(
    tiny: DetectorSettings, batch_of: MakeBatch, targets_of: MakeTargets
) -> None:
    detector = _faster(replace(tiny, anchor_sampling=EVERY_ANCHOR, roi_sampling=EVERY_ROI))
    batch, images = _noise(batch_of((64, 96), (64, 96), (64, 80))), [[A, B], [], [C]]
    plain = detector.losses(batch, targets_of(*images))
    for padding in (1, 7):
        _assert_equal(detector.losses(batch, targets_of(*images, padding=padding)), plain)


def test_the_same_image_twice_has_the_losses_of_one(
    tiny: DetectorSettings, batch_of: MakeBatch, targets_of: MakeTargets
) -> None:
    detector = _faster(replace(tiny, anchor_sampling=EVERY_ANCHOR, roi_sampling=EVERY_ROI))
    one, two = _noise(batch_of((64, 96))), batch_of((64, 96), (64, 96))
    two = replace(two, pixels=one.pixels.expand(2, -1, -1, -1))
    image = [A, B]
    single = detector.losses(one, targets_of(image))
    _assert_equal(detector.losses(two, targets_of(image, image)), single)


def test_difficult_and_crowd_objects_are_not_learned(
    tiny: DetectorSettings, batch_of: MakeBatch, targets_of: MakeTargets
) -> None:
    detector, batch = _faster(tiny), _noise(batch_of((64, 96)))
    targets = targets_of([A, B], difficult=[(0, 0)], crowd=[(0, 1)])
    losses = detector.losses(batch, targets)
    assert losses.rpn_boxes == 0
    assert losses.roi_boxes == 0
    assert losses.counts is not None
    assert losses.counts.anchors_positive == 0
    assert losses.counts.rois_foreground == 0


def test_counts_say_what_was_drawn(
    tiny: DetectorSettings, batch_of: MakeBatch, targets_of: MakeTargets
) -> None:
    run = _faster(tiny).training_outputs(_noise(batch_of((64, 96), (64, 96))), targets_of([A, B], []))
    counts = run.losses.counts
    assert counts is not None
    assert run.anchor_samples is not None
    assert counts.anchors_positive == (run.anchor_samples.labels == 1).sum() > 0
    assert counts.anchors_negative == (run.anchor_samples.labels == 0).sum() > 0
    assert counts.rois_foreground == (run.rois.labels > 0).sum() > 0
    assert counts.rois_background == (run.rois.labels == 0).sum() > 0
    assert run.rois.labels.shape == (2, 8)


def test_a_small_network_learns_one_picture_by_heart(
    tiny: DetectorSettings, targets_of: MakeTargets
) -> None:
    detector = _faster(
        replace(tiny, roi_sampling=RoISampling(samples=64), pooling=PoolingSettings(size=4))
    )
    picture = torch.zeros(3, 64, 96)
    picture[0, 16:48, 32:64] = 1.0
    batch = detector.images.batch([picture])
    targets = targets_of([(32.0, 16.0, 64.0, 48.0, 2)])
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


def test_detections_are_sorted_and_lie_in_the_original_image(tiny: DetectorSettings) -> None:
    detector = _faster(tiny).eval()
    generator = torch.Generator().manual_seed(0)
    sizes = [(32, 48), (640, 200), (200, 640), (64, 96)]
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    found = detector.detect(images)
    assert len(found) == 4
    for detections, (height, width) in zip(found, sizes, strict=True):
        assert len(detections) > 0
        assert torch.equal(detections.scores, detections.scores.sort(descending=True).values)
        x1, y1, x2, y2 = detections.boxes.unbind(-1)
        assert min(x1.min(), y1.min()) >= 0
        assert x2.max() <= width + 1e-3
        assert y2.max() <= height + 1e-3
        assert (x2 > x1).any()
        # the larger images' boxes reach beyond what the network saw
        assert height <= 64 or y2.max() > 100
        assert detections.labels.min() >= 1
        assert detections.labels.max() <= 3
        assert detections.class_names == NAMES


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
def test_any_picture_can_be_looked_at(tiny: DetectorSettings, image: Tensor) -> None:
    (found,) = _faster(tiny).eval().detect([image])
    assert isinstance(found, Detections)
    assert found.boxes.isfinite().all()


def test_detecting_keeps_no_graph_and_no_mode(tiny: DetectorSettings) -> None:
    detector = _faster(tiny)
    (found,) = detector.detect([torch.rand(3, 64, 96)])  # in training mode too
    assert not found.boxes.requires_grad
    assert detector.training


def test_an_image_is_detected_alike_in_any_batch(tiny: DetectorSettings) -> None:
    detector = _faster(tiny).eval()
    images = [torch.rand(3, 64, 96) for _ in range(3)]
    for image, together in zip(images, detector.detect(images), strict=True):
        (alone,) = detector.detect([image])
        assert_close(together.boxes, alone.boxes, atol=1e-3, rtol=0.0)
        assert torch.equal(together.labels, alone.labels)


def test_one_look_evaluates_as_detecting_and_learning_do(
    tiny: DetectorSettings, batch_of: MakeBatch, targets_of: MakeTargets
) -> None:
    detector = _faster(tiny).eval()
    batch, targets = _noise(batch_of((64, 96), (64, 80))), targets_of([A], [B, C])
    both = detector.evaluation_outputs(batch, targets, torch.Generator().manual_seed(0))
    found, proposals = detector.detect_batch(batch)
    for one, other in zip(both.detections, found, strict=True):
        assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(both.proposals.boxes, proposals.boxes)
    losses = detector.losses(batch, targets, torch.Generator().manual_seed(0))
    _assert_equal(both.losses, losses)
    assert not both.losses.total.requires_grad


def test_proposals_are_constants_of_approximate_joint_training(
    tiny: DetectorSettings, batch_of: MakeBatch, targets_of: MakeTargets
) -> None:
    settings = replace(tiny, pooling=PoolingSettings(kind="crop", size=2))
    detector = _faster(settings)
    run = detector.training_outputs(_noise(batch_of((64, 96))), targets_of([A, B]))
    assert not run.proposals.boxes.requires_grad
    (run.losses.roi_classes + run.losses.roi_boxes).backward()
    assert all(p.grad is None or not p.grad.any() for p in detector.rpn.parameters())


class TestSettings:
    def test_padding_must_suit_the_stride(self, tiny: DetectorSettings) -> None:
        settings = replace(tiny, images=replace(tiny.images, multiple=24))
        with pytest.raises(SettingsError, match=r"images\.multiple=24.*stride 16"):
            FasterRCNN(settings)

    def test_sizes_must_suit_the_levels(self, tiny: DetectorSettings) -> None:
        settings = replace(tiny, anchors=AnchorSettings(sizes=((32.0,), (64.0,))))
        with pytest.raises(SettingsError, match=r"2 levels.*has 1"):
            FasterRCNN(settings)

    def test_class_names_are_needed_and_differ(self) -> None:
        with pytest.raises(SettingsError, match=r"class_names=\(\)"):
            DetectorSettings(class_names=())
        with pytest.raises(SettingsError, match="no name stands twice"):
            DetectorSettings(class_names=("cat", "cat"))

    def test_deviations_are_above_zero(self) -> None:
        with pytest.raises(SettingsError, match=r"^std="):
            DeltaSettings(std=(0.1, 0.1, 0.0, 0.2))

    def test_settings_survive_a_checkpoint(self, tiny: DetectorSettings) -> None:
        assert from_plain(DetectorSettings, to_plain(tiny)) == tiny


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["roi_pool", "roi_align", "crop"])
def test_a_gpu_computes_what_a_cpu_does(
    tiny: DetectorSettings, targets_of: MakeTargets, kind: Any
) -> None:
    settings = replace(
        tiny,
        anchor_sampling=EVERY_ANCHOR,
        roi_sampling=EVERY_ROI,
        pooling=PoolingSettings(kind=kind, size=2),
    )
    detector = _faster(settings).eval()
    images, targets = [torch.rand(3, 128, 192), torch.rand(3, 64, 96)], targets_of([A, B], [C])
    losses = detector.losses(detector.images.batch(images), targets)
    found = detector.detect(images)
    detector.cuda()
    # Convolutions may run in TF32.
    on_gpu = detector.losses(
        detector.images.batch(images), targets.to("cuda"), torch.Generator("cuda").manual_seed(0)
    )
    for name, term in losses.named.items():
        assert_close(on_gpu.named[name].cpu(), term, atol=0.02, rtol=0.02)
    for one, other in zip(detector.detect(images), found, strict=True):
        assert one.boxes.device.type == "cuda"
        assert abs(len(one) - len(other)) <= 3
    whole_numbers = [(255 * image).to(torch.uint8) for image in images]
    assert len(detector.detect(whole_numbers)) == 2
