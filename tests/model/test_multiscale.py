"""Regions pooled at the scale that suits their size."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rcnn.data import EvaluationTransform, ShapesDataset, collate
from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.multiscale import nearest_scale, pool_nearest
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import scale
from rcnn.ops.images import resize
from rcnn.structures import Detections, ImageBatch, Proposals
from rcnn.training import DetectionModule
from tests.model.inputs import TINY, targets_of
from tests.ops.inputs import random_boxes

Scales = tuple[int, ...] | None


def _square(side: float) -> list[float]:
    return [10.0, 10.0, 10.0 + side, 10.0 + side]


def _at(settings: DetectorSettings, shorter_side: int, scales: Scales) -> DetectorSettings:
    """Return settings under which a RoI of 20 x 20 pixels is of the usual size."""
    images = replace(
        settings.images, shorter_side=shorter_side, longer_side=256, test_scales=scales
    )
    pooling = replace(settings.pooling, canonical_size=20.0)
    return replace(settings, images=images, pooling=pooling)


def _built(kind: type[FastRCNN] | type[FasterRCNN], settings: DetectorSettings) -> FastRCNN:
    torch.manual_seed(0)
    return kind(settings).eval()


def _assert_same(found: list[Detections], expected: list[Detections]) -> None:
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
    rois = torch.tensor([[_square(100), _square(200), _square(300), _square(173)]])
    factors = torch.tensor([[[0.5, 0.5], [1.0, 1.0], [2.0, 2.0]]])
    assert nearest_scale(rois, factors, 224.0).tolist() == [[2, 1, 0, 1]]
    assert nearest_scale(rois, factors[:, :1], 224.0).tolist() == [[0, 0, 0, 0]]
    squeezed = torch.tensor([[[0.25, 1.0], [1.0, 0.25], [4.0, 1.0]]])  # areas, not widths
    assert nearest_scale(rois, squeezed, 224.0).tolist() == [[2, 0, 0, 0]]


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_regions_stay_in_order_and_reach_the_pools_in_pixels_of_their_scale(count: int) -> None:
    rois = random_boxes(0, 2, count, extent=400.0)
    factors = torch.tensor([[[0.5, 0.6], [1.0, 1.0], [3.0, 2.0]], [[2.0, 2.0], [1.0, 1.0], [4, 4]]])

    def pool(number: int) -> Callable[[Tensor], Tensor]:
        return lambda rois: torch.cat(
            [torch.full_like(rois[..., :1], number), rois], dim=-1
        ).flatten(0, 1)[:, :, None, None]

    found = pool_nearest([pool(0), pool(1), pool(2)], factors, 224.0, rois)
    chosen = nearest_scale(rois, factors, 224.0)
    assert found.shape == (2 * count, 5, 1, 1)
    for image in range(2):
        for place in range(count):
            number, *box = found[image * count + place].flatten().tolist()
            assert number == chosen[image, place]
            expected = scale(rois[image, place, None], factors[image, int(number)])[0]
            assert box == pytest.approx(expected.tolist())
    assert count < 40 or len(chosen.unique()) == 3


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_detectors_own_scale_alone_changes_nothing(count: int, images: list[Tensor]) -> None:
    given = list(random_boxes(0, 2, count, extent=60.0))
    one, none = (_built(FastRCNN, _at(TINY, 96, scales)) for scales in ((96,), None))
    found, expected = one.detect(images, given), none.detect(images, given)
    assert [len(detections) > 0 for detections in expected] == [count > 0] * 2
    if count:
        _assert_same(found, expected)
    own, plain = (_built(FasterRCNN, _at(TINY, 96, scales)) for scales in ((96,), None))
    _assert_same(own.detect(images), plain.detect(images))


@pytest.mark.parametrize("own", [32, 64, 256])
def test_regions_at_another_scale_are_those_of_a_detector_of_that_scale(
    own: int, images: list[Tensor]
) -> None:
    given = list(random_boxes(1, 2, 12, extent=60.0))
    limits = replace(TINY.proposals, min_size=0.0)
    TINY = replace(TINY, proposals=limits)
    found = _built(FastRCNN, _at(TINY, own, (128,))).detect(images, given)
    expected = _built(FastRCNN, _at(TINY, 128, None)).detect(images, given)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs) > 0
        assert_close(ours.boxes, theirs.boxes, atol=1e-3, rtol=0)
        assert_close(ours.scores, theirs.scores, atol=1e-5, rtol=0)
        assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("kind", [FastRCNN, FasterRCNN])
def test_proposals_and_losses_stay_at_the_detectors_own_scale(
    kind: type[FastRCNN] | type[FasterRCNN], images: list[Tensor]
) -> None:
    targets = targets_of([(10.0, 10.0, 50.0, 40.0, 1)], [])
    passes = []
    for scales in ((48, 128), None):
        detector = _built(kind, _at(TINY, 64, scales))
        batch = detector.transform.batch(images)
        given = Proposals.pad(list(random_boxes(1, 2, 20, extent=60.0)), batch.scales)
        batch = replace(batch, proposals=given)
        with torch.no_grad():
            passes.append(
                detector.evaluation_outputs(batch, targets, torch.Generator().manual_seed(0))
            )
        found, proposals = detector.detect_batch(batch)
        _assert_same(found, passes[-1].detections or [])
        assert_close(proposals.boxes, passes[-1].proposals.boxes)
        for detections, image in zip(found, images, strict=True):
            assert (detections.boxes[:, 3] <= image.shape[-2]).all()
            assert (detections.boxes[:, 2] <= image.shape[-1]).all()
    several, own = passes
    assert torch.equal(several.proposals.boxes, own.proposals.boxes)
    assert_close(several.losses.named, own.losses.named)
    assert several.detections is not None
    assert own.detections is not None
    assert not torch.equal(several.detections[0].scores, own.detections[0].scores)


def test_a_batch_at_another_side_keeps_its_originals_sizes(images: list[Tensor]) -> None:
    detector = _built(FasterRCNN, _at(TINY, 64, (64, 96)))
    batch = detector.transform.batch(images)
    assert detector.transform.at_side(batch, 64) is batch
    larger = detector.transform.at_side(batch, 96)
    assert larger.sizes.tolist() == [[96, 96], [96, 120]]
    assert larger.original_sizes.tolist() == [[64, 64], [64, 80]]
    assert larger.pixels.shape == (2, 3, 96, 128)
    assert not larger.pixels[1, :, :, 120:].any()


def test_the_loader_hands_over_the_pixels_that_predict_has() -> None:
    sample = ShapesDataset(1, size=200)[0]
    detector = _built(FasterRCNN, _at(TINY, 64, (64, 128)))
    transform = EvaluationTransform(64, 256, keep_original=True)
    batch = collate([transform(sample, torch.Generator())], 16).images
    direct = detector.transform.batch([sample.image])
    for side in (64, 128, 256):
        ours, theirs = (detector.transform.at_side(one, side) for one in (batch, direct))
        assert torch.equal(ours.pixels, theirs.pixels)
        expected = resize(sample.image, (min(side, 256), min(side, 256)))
        assert torch.equal(ours.pixels[0], expected)


def test_pixels_of_a_batch_may_be_bytes(images: list[Tensor]) -> None:
    detector = _built(FasterRCNN, _at(TINY, 96, (64, 128)))
    found = detector.detect([(image * 255).to(torch.uint8) for image in images])
    assert all(isinstance(detections, Detections) for detections in found)
    batch: ImageBatch = detector.transform.batch(
        [(image * 255).to(torch.uint8) for image in images]
    )
    assert detector.transform.at_side(batch, 64).pixels.dtype == torch.uint8


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_module_predicts_at_several_scales(count: int) -> None:
    picture = torch.zeros(3, 40, 50, dtype=torch.uint8)
    given = [torch.tensor([5.0, 5.0, 30.0, 30.0]).expand(count, 4)]
    settings = _at(TINY, 64, (48, 96))
    found = DetectionModule(settings, system="fast_rcnn").predict([picture], proposals=given)
    assert [len(detections) > 0 for detections in found] == [count > 0]
    alone = DetectionModule(settings).predict(picture)
    assert (alone.boxes <= torch.tensor([50, 40, 50, 40])).all()
