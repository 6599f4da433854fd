"""How well anchors fit objects, against all anchors one by one, and the search for better ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data.anchor_fit import Objects, anchor_fit, best_ious, k_medoids, propose_anchors
from rcnn.model.anchors import AnchorGrid, AnchorSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import AnchorSampling
from rcnn.ops.boxes import inside, iou

PYRAMID = (4, 8, 16)


def objects(boxes: list[list[float]], labels: list[int] | None = None, side: int = 128) -> Objects:
    count = len(boxes)
    return Objects(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels or [1] * count, dtype=torch.int64),
        torch.full((count, 2), side),
        torch.ones(count),
    )


def random_objects(count: int, seed: int, side: int = 128) -> Objects:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side * 0.8
    sides = 4 + torch.rand(count, 2, generator=generator) * side * 0.6
    boxes = torch.cat([corner, (corner + sides).clamp(max=side)], dim=1)
    return objects(boxes.tolist(), side=side)


def square(scales: tuple[float, ...] = (2.0,)) -> DetectorSettings:
    return DetectorSettings(("cell",), anchors=AnchorSettings(scales=scales, ratios=(1.0,)))


def test_an_object_on_an_anchor_is_reached_and_one_half_a_cell_beside_is_not() -> None:
    # Anchors of 32 x 32 around (8, 8), (24, 24) ...: the second object lies 8 pixels to the right
    # and 8 below one, so that they share 24 x 24 of 2 x 1024 - 576 pixels.
    fit = anchor_fit(objects([[24, 24, 56, 56], [32, 32, 64, 64]]), square(), [16])
    assert fit is not None
    assert fit.objects == 2
    assert fit.reached == 0.5
    assert fit.only_best == 0.5
    assert fit.beyond == 0
    assert fit.mean_iou == pytest.approx((1 + 576 / (2048 - 576)) / 2)


def test_an_object_at_the_border_is_lost_where_only_crossing_anchors_reach_it() -> None:
    # The anchor around (8, 8) is the object's, but crosses the border by 8 pixels.
    corner = objects([[0, 0, 24, 24]])
    skipping = anchor_fit(corner, square((1.5,)), [16])
    keeping = anchor_fit(
        objects([[0, 0, 20, 20]]),
        DetectorSettings(
            ("cell",),
            anchors=AnchorSettings(scales=(1.5,), ratios=(1.0,)),
            anchor_sampling=AnchorSampling(skip_border_anchors=False),
        ),
        [16],
    )
    assert skipping is not None
    assert keeping is not None
    # 24 x 24 around (8, 8) shares 20 x 20 with the object; around (24, 24) only 12 x 12.
    assert best_ious(corner, square((1.5,)).anchors, [16], inside=False).item() == pytest.approx(
        400 / (2 * 576 - 400)
    )
    assert best_ious(corner, square((1.5,)).anchors, [16], inside=True).item() == pytest.approx(
        144 / (2 * 576 - 144)
    )
    assert keeping.lost_to_border == 0


def test_sizes_below_a_cell_and_below_the_smallest_proposal_are_counted() -> None:
    small = objects([[0, 0, 10, 10], [0, 0, 40, 10], [0, 0, 40, 40]])
    settings = DetectorSettings(("cell",), proposals=ProposalSettings(min_size=12))
    fit = anchor_fit(small, settings, [16])
    assert fit is not None
    assert fit.below_cell == pytest.approx(1 / 3)
    assert fit.lost_to_min_size == pytest.approx(2 / 3)


@given(st.integers(0, 1000), st.sampled_from([(16,), PYRAMID]), st.booleans())
def test_the_best_position_of_every_template_is_that_of_all_anchors(
    seed: int, strides: tuple[int, ...], only_inside: bool
) -> None:
    some, settings = random_objects(20, seed), AnchorSettings(scales=(1, 2), ratios=(0.5, 1, 2))
    anchors = AnchorGrid(settings, strides)([(128 // s, 128 // s) for s in strides], (128, 128))
    if only_inside:
        anchors = anchors[inside(anchors, torch.tensor([[128, 128]]))[0]]
    expected = iou(some.boxes, anchors).amax(1)
    found = best_ious(some, settings, strides, inside=only_inside).amax(1)
    torch.testing.assert_close(found, expected)


def test_medoids_of_two_kinds_of_shapes_are_one_of_each() -> None:
    shapes = torch.tensor([[10.0, 10], [11, 10], [10, 11], [40, 80], [42, 80], [40, 82]])
    found = k_medoids(shapes, 2)
    assert sorted(found[:, 0].round(decimals=-1).tolist()) == [10, 40]


def test_the_proposed_anchors_reach_more_of_every_class() -> None:
    # Small and large squares, where the papers' anchors have only large ones.
    generator = torch.Generator().manual_seed(0)
    boxes, labels = [], []
    for label, side in ((1, 24), (2, 96)):
        for x, y in (torch.rand(40, 2, generator=generator) * (512 - side)).tolist():
            boxes.append([x, y, x + side, y + side])
            labels.append(label)
    some = objects(boxes, labels, side=512)
    settings = DetectorSettings(("small", "large"))
    found = propose_anchors(some, settings, [8])
    assert found is not None
    assert found.after > found.before + 0.2
    better = DetectorSettings(
        ("small", "large"), anchors=AnchorSettings(scales=found.scales, ratios=found.ratios)
    )
    before, after = anchor_fit(some, settings, [8]), anchor_fit(some, better, [8])
    assert before is not None
    assert after is not None
    for label in (1, 2):
        assert after.reached_by_class[label] >= before.reached_by_class[label]
    assert len(found.scales) == len(settings.anchors.scales)
    assert "anchors.scales=[" in found.overrides


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_objects_are_no_difficulty(count: int) -> None:
    some = objects([[0, 0, 20, 20]] * count)
    fit = anchor_fit(some, square(), [16])
    assert (fit is None) == (count == 0)
    proposal = propose_anchors(some, square(), [16])
    assert proposal is None or proposal.after > proposal.before
