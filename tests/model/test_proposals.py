"""Proposals against torchvision's region proposal network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.rpn import RPNHead as OracleHead

from rcnn.model.anchors import AnchorGrid, AnchorSettings
from rcnn.model.proposals import ProposalSettings, given_proposals, propose
from rcnn.model.rpn import RPNHead, RPNSettings
from rcnn.ops.deltas import encode
from rcnn.structures import ImageBatch, Proposals
from tests.model.inputs import batch_of, proposals_of
from tests.ops.inputs import random_boxes

SIZES = ((32.0,), (64.0,))
LIMITS = ProposalSettings(
    before_nms_train=200, after_nms_train=60, before_nms_test=80, after_nms_test=30, min_size=4.0
)


def _oracle(head: torch.nn.Module, limits: ProposalSettings) -> RegionProposalNetwork:
    network = RegionProposalNetwork(
        AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * 2),
        head,
        *(0.7, 0.3, 256, 0.5),
        {"training": limits.before_nms_train, "testing": limits.before_nms_test},
        {"training": limits.after_nms_train, "testing": limits.after_nms_test},
        limits.nms_iou,
    )
    network.min_size = limits.min_size
    return network


def _assert_same(ours: Proposals, boxes: Sequence[Tensor], scores: Sequence[Tensor]) -> None:
    for i, (expected, score) in enumerate(zip(boxes, scores, strict=True)):
        used = ours.valid[i]
        assert used.sum() == len(expected)
        assert torch.equal(used, used.sort(descending=True).values)  # used slots first
        assert_close(ours.boxes[i, used], expected, atol=1e-3, rtol=1e-5)
        assert_close(ours.scores[i, used], score)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("levels", [1, 2])
def test_whole_network_equals_torchvision(seed: int, train: bool, levels: int) -> None:
    torch.manual_seed(seed)
    strides, grids = [8, 16][:levels], [(12, 16), (6, 8)][:levels]
    head, oracle_head = (
        RPNHead(RPNSettings(channels=None, objectness="sigmoid"), 6, 3),
        OracleHead(6, 3),
    )
    for mine, its in [
        (head.conv, oracle_head.conv[0][0]),
        (head.cls_logits, oracle_head.cls_logits),
        (head.bbox_pred, oracle_head.bbox_pred),
    ]:
        torch.nn.init.normal_(mine.weight, std=0.15)  # boxes that move far
        its.load_state_dict(mine.state_dict())
    features = [torch.randn(2, 6, *grid) for grid in grids]
    batch = batch_of((96, 128), (80, 100))

    oracle = _oracle(oracle_head, LIMITS)
    oracle.anchor_generator = AnchorGenerator(SIZES[:levels], ((0.5, 1.0, 2.0),) * levels)
    oracle.training = train
    images = ImageList(batch.pixels, [tuple(size) for size in batch.sizes.tolist()])
    targets = [{"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]])}] * 2
    scores: list[Tensor] = []
    filter_proposals = oracle.filter_proposals

    def keep_scores(*args: Any) -> tuple[list[Tensor], list[Tensor]]:
        boxes, objectness = filter_proposals(*args)
        scores.extend(objectness)
        return boxes, objectness

    oracle.filter_proposals = keep_scores
    with torch.no_grad():
        boxes, _ = oracle(images, dict(enumerate(features)), targets)
        settings = AnchorSettings(sizes=SIZES[:levels], offset=0.0, rounding="nearest")
        anchors = AnchorGrid(settings, strides)(grids, (96, 128))
        logits, deltas = head(features)
        ours = propose(anchors, logits, deltas, batch, LIMITS, train=train)
    assert ours.boxes.shape[1] == min(60 if train else 30, sum(h * w * 3 for h, w in grids))
    _assert_same(ours, boxes, scores)


def _propose(
    anchors: Tensor,
    logits: list[Tensor],
    limits: ProposalSettings | None = None,
    deltas: list[Tensor] | None = None,
    batch: ImageBatch | None = None,
    *,
    train: bool = True,
) -> Proposals:
    """Propose, by default the anchors as they are, in images of 200 x 200 pixels."""
    deltas = deltas or [torch.zeros(*level.shape, 4) for level in logits]
    batch = batch or batch_of(*[(200, 200)] * len(logits[0]))
    return propose(anchors, logits, deltas, batch, limits or ProposalSettings(), train=train)


@pytest.fixture
def apart() -> Tensor:
    """100 anchors that do not overlap."""
    corners = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0)) * 20
    return torch.cat([corners, corners + 18], dim=1)


def test_boxes_are_decoded_clipped_and_sorted_unless_regression_is_ablated() -> None:
    anchors = torch.tensor([[10.0, 10.0, 30.0, 30.0], [80.0, 80.0, 100.0, 100.0]])
    wanted = torch.tensor([[40.0, 20.0, 80.0, 40.0], [70.0, 60.0, 130.0, 110.0]])
    deltas, batch = [encode(anchors, wanted)[None]], batch_of((100, 110))
    logits, ablated = [torch.tensor([[0.0, 2.0]])], ProposalSettings(ablate_regression=True)
    clipped = torch.tensor([[70.0, 60.0, 110.0, 100.0], [40.0, 20.0, 80.0, 40.0]])
    for limits, train, expected in (
        (ProposalSettings(), True, clipped),
        (ProposalSettings(), False, clipped),
        (ablated, True, clipped),
        (ablated, False, anchors.flip(0)),  # only when detecting
    ):
        proposals = _propose(anchors, logits, limits, deltas, batch, train=train)
        assert_close(proposals.boxes[0], expected)
        assert_close(proposals.scores[0], torch.tensor([2.0, 0.0]).sigmoid())
        assert proposals.valid.all()


@pytest.mark.parametrize(("scale", "kept"), [(1.0, [0, 1]), (2.0, [0]), (0.5, [0, 1, 2])])
def test_smallest_side_is_16_pixels_of_the_original_image(scale: float, kept: list[int]) -> None:
    sides = torch.tensor([[40.0, 32.0], [16.0, 40.0], [40.0, 8.0], [7.9, 40.0]])
    corners = (torch.arange(4)[:, None] * 45.0).expand(-1, 2)
    boxes = torch.cat([corners, corners + sides], dim=1)
    logits = [torch.tensor([[4.0, 3.0, 2.0, 1.0]])]
    proposals = _propose(boxes, logits, batch=batch_of((200, 200), scale=scale))
    assert proposals.valid.sum() == len(kept)
    assert_close(proposals.boxes[0, : len(kept)], boxes[kept])
    assert not proposals.boxes[0, len(kept) :].any()
    assert not proposals.scores[0, len(kept) :].any()


def test_each_image_has_its_own_scale() -> None:
    sizes = torch.tensor([[100, 100], [100, 100]])
    batch = ImageBatch(torch.zeros(2, 3, 100, 100), sizes, torch.tensor([[100, 100], [50, 50]]))
    proposals = _propose(torch.tensor([[0.0, 0.0, 20.0, 20.0]]), [torch.zeros(2, 1)], batch=batch)
    assert proposals.valid.tolist() == [[True], [False]]


def test_limits_hold_per_level_before_and_per_image_after(apart: Tensor) -> None:
    logits = torch.linspace(3, -3, 100).expand(2, 100)
    levels = [logits[:, :60], logits[:, 60:]]
    limits = ProposalSettings(
        before_nms_train=50, after_nms_train=70, before_nms_test=30, after_nms_test=45
    )
    train = _propose(apart, levels, limits)
    assert train.boxes.shape == (2, 70, 4)
    order = [*range(50), *range(60, 80)]  # 50 of the first level, then the second
    assert torch.equal(train.boxes[1], apart[order])
    test = _propose(apart, levels, limits, train=False)
    assert torch.equal(test.boxes[0], apart[[*range(30), *range(60, 75)]])


def test_without_ranking_any_come_first_but_only_when_detecting(apart: Tensor) -> None:
    logits, limits = torch.linspace(3, -3, 100).expand(2, 100), replace(LIMITS, ablate_ranking=True)
    drawn = _propose(apart, [logits], limits, train=False).boxes
    reverse = _propose(apart, [-logits], limits, train=False).boxes
    assert torch.equal(drawn, reverse)  # whatever the network says
    assert torch.equal(drawn[0], drawn[1])
    indices = (drawn[0][:, None] == apart).all(dim=2).long().argmax(dim=1)
    assert len(indices.unique()) == limits.after_nms_test
    assert indices.max() > 80  # not the first, nor the best
    best = _propose(apart, [logits], limits).boxes[0]
    assert torch.equal(best, apart[: limits.after_nms_train])


def test_levels_do_not_suppress_each_other() -> None:
    anchors = torch.tensor([[10.0, 10.0, 50.0, 50.0]]).expand(3, 4)
    proposals = _propose(anchors, [torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0]])])
    assert proposals.valid.tolist() == [[True, True, False]]
    assert_close(proposals.scores[0, :2], torch.tensor([2.0, 0.0]).sigmoid())


def test_gradients_flow_through_the_coordinates() -> None:
    """Exact joint training differentiates the box head's loss to the RPN."""
    anchors = random_boxes(1, 50) * 0.5 + torch.tensor([10.0, 10.0, 40.0, 40.0])
    deltas = torch.zeros(1, 50, 4, requires_grad=True)
    proposals = _propose(anchors, [torch.randn(1, 50)], LIMITS, [deltas])
    (gradient,) = torch.autograd.grad(proposals.boxes.sum(), deltas)
    moved = gradient.abs().amax(dim=-1)[0] > 0
    assert moved.sum() == proposals.valid.sum()
    # of a box around (x, y), sum of coordinates = 2 x + 2 y, and x = xa + tx wa
    kept = moved.nonzero().squeeze(1)
    widths = (anchors[:, 2] - anchors[:, 0])[kept]
    assert_close(gradient[0, kept, 0], 2 * widths)


def test_an_untrained_network_may_say_anything() -> None:
    wild = torch.randn(1, 60) * 1e3, torch.randn(1, 60, 4) * 1e3
    proposals = _propose(random_boxes(2, 60), [wild[0]], LIMITS, [wild[1]], train=False)
    assert proposals.boxes.isfinite().all()
    assert proposals.scores.isfinite().all()


def test_half_precision_outputs_give_boxes_in_full() -> None:
    anchors, logits = random_boxes(3, 60) + 700, torch.randn(1, 60).bfloat16()
    limits = replace(LIMITS, min_size=0.0, nms_iou=1.0)
    deltas = [torch.zeros(1, 60, 4).bfloat16()]
    proposals = _propose(anchors, [logits], limits, deltas, batch_of((900, 900)))
    assert proposals.boxes.dtype == torch.float32
    assert_close(proposals.boxes[0], anchors[logits[0].topk(60).indices], atol=1e-3, rtol=0.0)


BOXES = torch.tensor(
    [
        [0.0, 0.0, 42.0, 42.0],
        [0.0, 0.0, 9.0, 42.0],  # narrow
        [2.0, 2.0, 44.0, 41.0],  # in cells of 16 pixels the same as the first
        [50.0, 10.0, 90.0, 60.0],
    ]
)


def choose(
    batch: ImageBatch, given: Proposals, limits: ProposalSettings, *, train: bool = False
) -> Proposals:
    return given_proposals(replace(batch, proposals=given), limits, stride=16, train=train)


def used(chosen: Proposals, image: int = 0) -> list[list[float]]:
    """The boxes of an image, after a check that they come before the unused slots."""
    valid = chosen.valid[image]
    assert torch.equal(valid, valid.sort(descending=True).values)
    assert not chosen.boxes[image, ~valid].any()
    assert not chosen.scores[image, ~valid].any()
    boxes: list[list[float]] = chosen.boxes[image, valid].tolist()
    return boxes


def rows(*which: int) -> list[list[float]]:
    return [BOXES[row].tolist() for row in which]


def test_small_ones_go_and_the_rest_stays_in_order() -> None:
    chosen = choose(batch_of((64, 96)), proposals_of(BOXES[None]), ProposalSettings(min_size=10.0))
    assert used(chosen) == rows(0, 2, 3)
    scores = proposals_of(BOXES[None]).scores[0]
    assert torch.equal(chosen.scores[0, :3], scores[[0, 2, 3]])


def test_the_smallest_size_is_one_of_the_original_image() -> None:
    given = proposals_of(BOXES[None])
    halved = batch_of((64, 96), scale=0.5)  # 9 pixels were 18
    assert used(choose(halved, given, ProposalSettings(min_size=18.0))) == rows(0, 1, 2, 3)
    assert used(choose(halved, given, ProposalSettings(min_size=18.1))) == rows(0, 2, 3)


def test_of_those_on_the_same_cells_the_first_stays() -> None:
    limits = ProposalSettings(min_size=0.0, dedup_on_feature_grid=True)
    assert used(choose(batch_of((64, 96)), proposals_of(BOXES[None]), limits)) == rows(0, 1, 3)
    same = replace(limits, dedup_on_feature_grid=False)
    assert used(choose(batch_of((64, 96)), proposals_of(BOXES[None]), same)) == rows(0, 1, 2, 3)


def test_one_that_goes_for_its_size_hides_no_other() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 25.0, 25.0], [0.0, 0.0, 30.0, 30.0]]])
    limits = ProposalSettings(min_size=28.0, dedup_on_feature_grid=True)
    assert used(choose(batch_of((64, 96)), proposals_of(boxes), limits)) == boxes[0, 1:].tolist()


@pytest.mark.parametrize(("train", "count"), [(True, 3), (False, 1)])
def test_the_best_are_counted_after_the_small_have_gone(train: bool, count: int) -> None:
    limits = ProposalSettings(after_nms_train=3, after_nms_test=1, min_size=10.0)
    boxes = BOXES[[1, 0, 2, 3]][None]  # the small one first
    chosen = choose(batch_of((64, 96)), proposals_of(boxes), limits, train=train)
    assert used(chosen) == rows(0, 2, 3)[:count]


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 3), (3, 1)])
def test_images_may_have_any_number(counts: Sequence[int]) -> None:
    batch = batch_of((64, 96), (64, 96))
    given = Proposals.pad([BOXES[[0, 2, 3]][:count] for count in counts], batch.scales)
    chosen = choose(batch, given, ProposalSettings())
    assert [len(used(chosen, image)) for image in range(2)] == list(counts)
    assert chosen.boxes.shape[1] == max(counts)


def test_unused_slots_are_never_chosen() -> None:
    batch = batch_of((64, 96))
    given = Proposals(BOXES[None], torch.ones(1, 4), torch.zeros(1, 4).bool())
    limits = ProposalSettings(min_size=0.0, dedup_on_feature_grid=True)
    assert used(choose(batch, given, limits)) == []


def test_what_lies_outside_the_image_is_cut_off() -> None:
    boxes = torch.tensor([[[-10.0, -20.0, 50.0, 90.0], [80.0, 0.0, 120.0, 30.0]]])
    given = Proposals(boxes, torch.ones(1, 2), torch.ones(1, 2).bool())
    chosen = choose(batch_of((64, 96)), given, ProposalSettings(dedup_on_feature_grid=True))
    assert used(chosen) == [[0.0, 0.0, 50.0, 64.0], [80.0, 0.0, 96.0, 30.0]]
    limits = ProposalSettings(min_size=16.5)
    assert used(choose(batch_of((64, 96)), given, limits)) == [[0.0, 0.0, 50.0, 64.0]]


@pytest.mark.parametrize("train", [True, False])
def test_images_without_proposals_are_refused_with_the_way_out(train: bool) -> None:
    message = r"came without proposals.*`rcnn propose`.*proposals\.folder.*detect\(images"
    with pytest.raises(ValueError, match=message):
        given_proposals(batch_of((64, 96)), ProposalSettings(), stride=16, train=train)


def test_only_their_order_counts_not_their_scores() -> None:
    given = Proposals(BOXES[None], torch.tensor([[-5.0, 0.0, 7.0, 3.0]]), torch.ones(1, 4).bool())
    chosen = choose(batch_of((64, 96)), given, ProposalSettings(min_size=10.0, score=0.5))
    assert used(chosen) == rows(0, 2, 3)
