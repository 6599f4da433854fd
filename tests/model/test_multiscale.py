"""Regions pooled at the scale that suits their size."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.multiscale import ScaledFeatures, nearest_scale, pool_at_nearest_scale
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import scale
from rcnn.ops.images import resize
from rcnn.structures import Detections, Proposals
from tests.model.inputs import TINY, A, targets_of
from tests.ops.inputs import random_boxes

Scales = tuple[int, ...] | None
D = TypeVar("D", bound=nn.Module)


def at(shorter_side: int, scales: Scales, min_size: float = 4.0) -> DetectorSettings:
    """Return settings under which a RoI of 20 x 20 pixels is of the usual size."""
    images = replace(TINY.images, shorter_side=shorter_side, longer_side=256, test_scales=scales)
    pooling = replace(TINY.pooling, canonical_size=20.0)
    proposals = replace(TINY.proposals, min_size=min_size)
    return replace(TINY, images=images, pooling=pooling, proposals=proposals)


def built(kind: Callable[[DetectorSettings], D], settings: DetectorSettings) -> D:
    torch.manual_seed(0)
    return kind(settings).eval()


def assert_same(found: list[Detections], expected: list[Detections]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs) > 0
        assert torch.equal(ours.boxes, theirs.boxes)
        assert torch.equal(ours.scores, theirs.scores)


@pytest.fixture
def images(generator: torch.Generator) -> list[Tensor]:
    return [torch.rand(3, *size, generator=generator) for size in ((64, 64), (64, 80))]


def test_each_region_takes_the_scale_at_which_it_has_nearly_224_x_224_pixels() -> None:
    # At half, the same and double scale: 50, 100 and 200 pixels; 100, 200, 400; 150, 300, 600. At
    # 173 the areas at the first two scales, 7482 and 29929, are both below 224 squared.
    sides = (100.0, 200.0, 300.0, 173.0)
    rois = torch.tensor([[[10.0, 10.0, 10.0 + side, 10.0 + side] for side in sides]])
    factors = torch.tensor([[[0.5, 0.5], [1.0, 1.0], [2.0, 2.0]]])
    assert nearest_scale(rois, factors, 224.0).tolist() == [[2, 1, 0, 1]]
    assert nearest_scale(rois, factors[:, :1], 224.0).tolist() == [[0, 0, 0, 0]]
    squeezed = torch.tensor([[[0.25, 1.0], [1.0, 0.25], [4.0, 1.0]]])  # areas, not widths
    assert nearest_scale(rois, squeezed, 224.0).tolist() == [[2, 0, 0, 0]]


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_rois_stay_in_order_and_are_pooled_in_pixels_of_their_scale(count: int) -> None:
    rois = random_boxes(0, 2, count, extent=400.0)
    factors = torch.tensor([[[0.5, 0.6], [1.0, 1.0], [3.0, 2.0]], [[2.0, 2.0], [1.0, 1.0], [4, 4]]])

    def pooler(features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """The number of the scale, which its features are, and the coordinates of each RoI."""
        number = torch.full_like(rois[..., :1], features[0].item())
        return torch.cat([number, rois], dim=-1).flatten(0, 1)[:, :, None, None]

    scales = [ScaledFeatures([torch.full((1, 1, 1, 1), float(k))], factors[:, k]) for k in range(3)]
    found = pool_at_nearest_scale(pooler, scales, rois, 224.0)
    chosen = nearest_scale(rois, factors, 224.0)
    assert found.shape == (2 * count, 5, 1, 1)
    for image in range(2):
        for index in range(count):
            number, *box = found[image * count + index].flatten().tolist()
            assert number == chosen[image, index]
            expected = scale(rois[image, index, None], factors[image, int(number)])[0]
            assert box == pytest.approx(expected.tolist())
    assert count < 40 or len(chosen.unique()) == 3


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_detectors_own_scale_alone_changes_nothing(count: int, images: list[Tensor]) -> None:
    given = list(random_boxes(0, 2, count, extent=60.0))
    one, none = (built(FastRCNN, at(96, scales)) for scales in ((96,), None))
    found, expected = one.detect(images, given), none.detect(images, given)
    assert [len(detections) > 0 for detections in expected] == [count > 0] * 2
    if count:
        assert_same(found, expected)
    own, plain = (built(FasterRCNN, at(96, scales)) for scales in ((96,), None))
    assert_same(own.detect(images), plain.detect(images))


@pytest.mark.parametrize("own", [32, 64, 256])
def test_regions_at_another_scale_are_those_of_a_detector_of_that_scale(
    own: int, images: list[Tensor]
) -> None:
    given = list(random_boxes(1, 2, 12, extent=60.0))
    found = built(FastRCNN, at(own, (128,), min_size=0.0)).detect(images, given)
    expected = built(FastRCNN, at(128, None, min_size=0.0)).detect(images, given)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs) > 0
        assert_close(ours.boxes, theirs.boxes, atol=1e-3, rtol=0)
        assert_close(ours.scores, theirs.scores, atol=1e-5, rtol=0)
        assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("kind", [FastRCNN, FasterRCNN])
def test_proposals_and_losses_stay_at_the_detectors_own_scale(
    kind: type[FastRCNN] | type[FasterRCNN], images: list[Tensor]
) -> None:
    targets, outputs = targets_of([A], []), []
    for scales in ((48, 128), None):
        detector = built(kind, at(64, scales))
        batch = detector.transform.batch(images)
        given = Proposals.pad(list(random_boxes(1, 2, 20, extent=60.0)), batch.scales)
        batch, generator = replace(batch, proposals=given), torch.Generator().manual_seed(0)
        outputs.append(detector.evaluation_outputs(batch, targets, generator))
        found, proposals = detector.detect_batch(batch)
        assert_same(found, outputs[-1].detections or [])
        assert_close(proposals.boxes, outputs[-1].proposals.boxes)
        for detections, image in zip(found, images, strict=True):
            assert (detections.boxes[:, 3] <= image.shape[-2]).all()
            assert (detections.boxes[:, 2] <= image.shape[-1]).all()
    several, own = outputs
    assert torch.equal(several.proposals.boxes, own.proposals.boxes)
    assert_close(several.losses.named, own.losses.named)
    assert several.detections is not None
    assert own.detections is not None
    assert not torch.equal(several.detections[0].scores, own.detections[0].scores)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_another_side_is_resized_from_the_original_pixels(dtype: torch.dtype) -> None:
    detector = built(FasterRCNN, at(64, (64, 128)))
    images = [torch.randint(0, 256, (3, *size)).to(dtype) for size in ((200, 200), (80, 100))]
    batch = detector.transform.batch(images)
    assert detector.transform.at_side(batch, 64) is batch
    larger = detector.transform.at_side(batch, 128)
    assert larger.sizes.tolist() == [[128, 128], [128, 160]]
    assert larger.original_sizes.tolist() == [[200, 200], [80, 100]]
    assert larger.pixels.shape == (2, 3, 128, 160)
    assert larger.pixels.dtype == dtype
    assert not larger.pixels[0, :, :, 128:].any()
    assert torch.equal(larger.pixels[1], resize(images[1], (128, 160)))
    # A batch of the user's own without original pixels: those that it has are resized again.
    again = detector.transform.at_side(replace(batch, originals=None), 128)
    assert torch.equal(again.pixels[1], resize(batch.pixels[1, :, :64, :80], (128, 160)))
