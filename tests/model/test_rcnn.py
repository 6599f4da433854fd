"""R-CNN: every region passes the whole network; what every system does is in test_build."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.vgg import cfgs, make_layers

from rcnn.model.backbones import BackboneSettings
from rcnn.model.rcnn import RCNN
from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageSettings
from rcnn.settings import SettingsError
from rcnn.structures import ImageBatch, Proposals
from tests.model.inputs import TINY, A, B, noise_of, targets_of
from tests.ops.inputs import random_boxes

SETTINGS = replace(TINY, warp=WarpSettings(size=32, context=2, chunk=8))
LEFT, RIGHT = [4.0, 8.0, 40.0, 60.0], [60.0, 8.0, 90.0, 50.0]


@pytest.fixture
def detector() -> RCNN:
    torch.manual_seed(0)
    return RCNN(SETTINGS)


@pytest.fixture
def batch() -> ImageBatch:
    """Two images of noise, with 25 proposals and 10."""
    boxes = random_boxes(0, 2, 25, extent=60.0) + torch.tensor([0.0, 0.0, 4.0, 4.0])
    given = Proposals.pad([boxes[0], boxes[1, :10]], torch.ones(2, 2))
    return replace(noise_of((64, 96), (64, 96)), proposals=given)


def pool(detector: RCNN, batch: ImageBatch, rois: Tensor) -> Tensor:
    return detector.roi_heads.pooler(detector.extract_features(batch), rois)


def seen(detector: RCNN) -> list[int]:
    """How many regions pass the backbone, each time that some do."""
    counts: list[int] = []
    detector.backbone.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    return counts


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (3, 1)])
def test_any_number_of_proposals_is_looked_at(
    detector: RCNN, batch: ImageBatch, counts: tuple[int, int]
) -> None:
    boxes = [torch.tensor([LEFT, RIGHT, LEFT])[:count] for count in counts]
    given = replace(batch, proposals=Proposals.pad(boxes, batch.scales))
    losses = detector.losses(given, targets_of([], []))
    losses.total.backward()
    assert (losses.total > 0) == any(counts)
    assert all(parameter.grad is not None for parameter in detector.parameters())
    regions = seen(detector)
    found, _ = detector.eval().detect_batch(given)
    assert [len(one) > 0 for one in found] == [count > 0 for count in counts]
    assert sum(regions) == sum(counts)


def test_nothing_is_shared_between_regions(detector: RCNN, batch: ImageBatch) -> None:
    """What is far from a region does not change its features, unlike those of Fast R-CNN."""
    pixels = batch.pixels.clone()
    pixels[..., 50:] = 0.0
    rois = torch.tensor([[LEFT, RIGHT]]).expand(2, -1, -1)
    detector.eval()
    with torch.no_grad():
        before, after = (
            pool(detector, replace(batch, pixels=picture), rois).unflatten(0, (2, 2))
            for picture in (batch.pixels, pixels)
        )
    assert_close(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_chunks_change_no_detection(batch: ImageBatch) -> None:
    found, passes = [], []
    for chunk in (1, 8, 1000):
        torch.manual_seed(0)
        detector = RCNN(replace(SETTINGS, warp=replace(SETTINGS.warp, chunk=chunk))).eval()
        counts = seen(detector)
        found.append(detector.detect_batch(batch)[0])
        passes.append(counts)
    used = found[0]
    assert [len(counts) for counts in passes] == [30, 4, 1]  # 20 of the first image, 10
    assert max(passes[1]) == 8
    for other in found[1:]:
        for one, two in zip(used, other, strict=True):
            assert torch.equal(one.labels, two.labels)
            assert_close(one.boxes, two.boxes, atol=1e-3, rtol=0.0)


def test_in_training_all_regions_of_a_minibatch_pass_at_once(
    detector: RCNN, batch: ImageBatch
) -> None:
    counts = seen(detector)
    losses = detector.losses(batch, targets_of([A], [B]))
    drawn = losses.counts
    assert counts == [drawn.rois_foreground + drawn.rois_background] == [16]


def test_batch_norms_count_what_is_learned_from_and_nothing_else(batch: ImageBatch) -> None:
    backbone = BackboneSettings("resnet18", weights=None, norm="batch", frozen_stages=0)
    detector = RCNN(replace(SETTINGS, backbone=backbone))
    count = detector.get_submodule("backbone.bn1").num_batches_tracked
    detector.losses(batch, targets_of([A], [B]))
    assert count == 1
    detector.detect_batch(batch)
    assert count == 1
    assert detector.backbone.training
    sampling = replace(SETTINGS.roi_sampling, ohem=True, ohem_candidates=20)
    detector.roi_heads.settings = replace(detector.settings, roi_sampling=sampling)
    detector.losses(batch, targets_of([A], [B]))
    assert count == 2


def test_of_vgg_at_224_pixels_the_features_are_those_before_its_fc6() -> None:
    settings = DetectorSettings(
        ("cat",),
        images=ImageSettings(shorter_side=224, longer_side=224),
        backbone=BackboneSettings("vgg16", weights=None, frozen_stages=0, hidden=4),
        warp=WarpSettings(size=224, context=0),
    )
    detector = RCNN(settings).eval()
    whole = make_layers(cfgs["D"])  # pool5 included
    whole.load_state_dict(detector.get_submodule("backbone.features").state_dict())
    batch = detector.transform.batch([torch.rand(3, 224, 224)])
    with torch.no_grad():
        pooled = pool(detector, batch, torch.tensor([[[0.0, 0.0, 224.0, 224.0]]]))
        expected = whole(detector.transform.normalise(batch))
    assert pooled.shape == (1, 512, 7, 7)
    assert_close(pooled, expected, atol=1e-4, rtol=1e-4)


def test_regions_less_than_a_cell_apart_are_no_duplicates(batch: ImageBatch) -> None:
    limits = replace(SETTINGS.proposals, dedup_on_feature_grid=True)
    detector = RCNN(replace(SETTINGS, proposals=limits)).eval()
    close = [4.0, 8.0, 42.0, 60.0]
    boxes = torch.tensor([LEFT, close, LEFT])
    given = replace(batch, proposals=Proposals.pad([boxes, boxes[:1]], batch.scales))
    _, used = detector.detect_batch(given)
    assert used.boxes[0, used.valid[0]].tolist() == [LEFT, close]


class TestSettings:
    def test_batches_need_no_padding(self) -> None:
        images = replace(SETTINGS.images, multiple=1)
        detector = RCNN(replace(SETTINGS, images=images)).eval()
        (found,) = detector.detect([torch.rand(3, 61, 43)], [torch.tensor([[5.0, 5, 40, 50]])])
        assert len(found) > 0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"warp": WarpSettings(31, 2)}, r"warp\.size=31.*stride of 16.*2 cells.*32 or more"),
            ({"pooling": PoolingSettings("pyramid")}, r"pooling\.kind='pyramid'.*model=sppnet"),
            (
                {"backbone": BackboneSettings("resnet18_fpn", weights=None, hidden=4)},
                r"backbone\.name='resnet18_fpn'.*4 feature maps.*resnet18 or vgg16",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused_with_a_way_out(
        self, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(SettingsError, match=message):
            RCNN(replace(SETTINGS, **changes))
