"""Exact joint training: the gradient is that of the whole loss, through the RoIs' coordinates."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcnn.kernels.roi_align_cpu import align_rois
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DetectorSettings
from rcnn.structures import ImageBatch, Targets

MakeTargets = Callable[..., Targets]
POOLINGS = [
    PoolingSettings(kind="roi_align", size=3),
    PoolingSettings(kind="roi_align", size=3, aligned=True),
    PoolingSettings(kind="crop", size=3),
    PoolingSettings(kind="crop", size=3, crop_max=True),
]


@pytest.mark.parametrize("aligned", [False, True])
def test_aligned_pooling_is_differentiable_in_features_and_rois(
    aligned: bool, generator: torch.Generator
) -> None:
    features = torch.randn(2, 2, 5, 6, generator=generator, dtype=torch.float64)
    rois = torch.tensor(
        [[3.3, 5.1, 51.7, 40.2], [11.9, 2.2, 70.4, 64.6], [-9.1, 3.3, 33.3, 99.9]],
        dtype=torch.float64,
    )
    inputs, images = (features.requires_grad_(), rois.requires_grad_()), torch.tensor([0, 0, 1])
    assert torch.autograd.gradcheck(
        lambda f, r: align_rois(f, r, images, 3, 1 / 16, 2, aligned), inputs
    )


def test_an_adaptive_number_of_samples_is_refused() -> None:
    rois = torch.tensor([[0.0, 0.0, 30.0, 30.0]]).requires_grad_()
    with pytest.raises(ValueError, match="sampling_ratio=0"):
        align_rois(torch.zeros(1, 1, 4, 4), rois, torch.tensor([0]), 3, 1 / 16, 0)


@pytest.fixture
def scene(targets_of: MakeTargets, generator: torch.Generator) -> tuple[ImageBatch, Targets]:
    pixels = torch.rand(2, 3, 64, 96, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([[64, 96], [60, 90]])
    targets = targets_of([(10.0, 8.0, 60.0, 50.0, 1), (50.0, 20.0, 90.0, 60.0, 2)], [])
    return ImageBatch(pixels, sizes, sizes), replace(targets, boxes=targets.boxes.double())


def detector_of(tiny: DetectorSettings, pooling: PoolingSettings) -> FasterRCNN:
    torch.manual_seed(0)
    sampling = replace(tiny.roi_sampling, append_gt=False, background_high=0.2)
    sampling = replace(sampling, foreground_iou=0.2, foreground_fraction=0.5)
    settings = replace(tiny, pooling=pooling, roi_sampling=sampling)
    detector = FasterRCNN(settings).double()
    for head in (detector.roi_heads.box_predictor.bbox_pred, detector.roi_heads.box_predictor.cls_score):
        torch.nn.init.normal_(head.weight, std=0.3)
    return detector


def total(detector: FasterRCNN, scene: tuple[ImageBatch, Targets], exact: bool) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    losses = detector.losses(*scene, generator, exact=exact)
    return losses.roi_classes + losses.roi_boxes


@pytest.mark.parametrize("pooling", POOLINGS, ids=["align", "aligned", "crop", "crop_max"])
def test_the_exact_gradient_of_the_rpn_agrees_with_finite_differences(
    pooling: PoolingSettings, tiny: DetectorSettings, scene: tuple[ImageBatch, Targets]
) -> None:
    detector = detector_of(tiny, pooling)
    bias = detector.rpn.deltas.bias
    assert bias is not None
    total(detector, scene, exact=True).backward()
    assert bias.grad is not None
    gradient = bias.grad.clone()
    assert gradient.abs().max() > 1e-4
    step = 1e-6
    for place in gradient.abs().topk(4).indices.tolist():
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                bias[place] += sign * step
                values.append(total(detector, scene, exact=True).item())
                bias[place] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert gradient[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_the_box_head_does_not_move_the_rpn_in_approximate_joint_training(
    tiny: DetectorSettings, scene: tuple[ImageBatch, Targets]
) -> None:
    detector = detector_of(tiny, POOLINGS[0])
    total(detector, scene, exact=False).backward()
    assert detector.rpn.deltas.weight.grad is None
    assert detector.roi_heads.box_predictor.bbox_pred.weight.grad is not None


def test_both_ways_give_the_same_losses(
    tiny: DetectorSettings, scene: tuple[ImageBatch, Targets]
) -> None:
    detector = detector_of(tiny, POOLINGS[0])
    exact, joint = (total(detector, scene, exact=exact) for exact in (True, False))
    torch.testing.assert_close(exact, joint)
