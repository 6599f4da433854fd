"""Which of the proposals that came with the images are used."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from rcnn.model.proposals import ProposalSettings, given_proposals
from rcnn.structures import ImageBatch, Proposals

MakeBatch = Callable[..., ImageBatch]
MakeProposals = Callable[..., Proposals]

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
    """The boxes of an image, after a check that they come before the empty places."""
    valid = chosen.valid[image]
    assert torch.equal(valid, valid.sort(descending=True).values)
    assert not chosen.boxes[image, ~valid].any()
    assert not chosen.scores[image, ~valid].any()
    boxes: list[list[float]] = chosen.boxes[image, valid].tolist()
    return boxes


def rows(*which: int) -> list[list[float]]:
    return [BOXES[row].tolist() for row in which]


def test_small_ones_go_and_the_rest_stays_in_order(
    batch_of: MakeBatch, proposals_of: MakeProposals
) -> None:
    chosen = choose(batch_of((64, 96)), proposals_of(BOXES[None]), ProposalSettings(min_size=10.0))
    assert used(chosen) == rows(0, 2, 3)
    scores = proposals_of(BOXES[None]).scores[0]
    assert torch.equal(chosen.scores[0, :3], scores[[0, 2, 3]])


def test_the_smallest_size_is_one_of_the_original_image(
    batch_of: MakeBatch, proposals_of: MakeProposals
) -> None:
    given = proposals_of(BOXES[None])
    halved = batch_of((64, 96), scale=0.5)  # 9 pixels were 18
    assert used(choose(halved, given, ProposalSettings(min_size=18.0))) == rows(0, 1, 2, 3)
    assert used(choose(halved, given, ProposalSettings(min_size=18.1))) == rows(0, 2, 3)


def test_of_those_on_the_same_cells_the_first_stays(
    batch_of: MakeBatch, proposals_of: MakeProposals
) -> None:
    limits = ProposalSettings(min_size=0.0, dedup_on_feature_grid=True)
    assert used(choose(batch_of((64, 96)), proposals_of(BOXES[None]), limits)) == rows(0, 1, 3)
    same = replace(limits, dedup_on_feature_grid=False)
    assert used(choose(batch_of((64, 96)), proposals_of(BOXES[None]), same)) == rows(0, 1, 2, 3)


def test_one_that_goes_for_its_size_hides_no_other(
    batch_of: MakeBatch, proposals_of: MakeProposals
) -> None:
    boxes = torch.tensor([[[0.0, 0.0, 25.0, 25.0], [0.0, 0.0, 30.0, 30.0]]])
    limits = ProposalSettings(min_size=28.0, dedup_on_feature_grid=True)
    assert used(choose(batch_of((64, 96)), proposals_of(boxes), limits)) == boxes[0, 1:].tolist()


@pytest.mark.parametrize(("train", "count"), [(True, 3), (False, 1)])
def test_the_best_are_counted_after_the_small_have_gone(
    batch_of: MakeBatch, proposals_of: MakeProposals, train: bool, count: int
) -> None:
    limits = ProposalSettings(after_nms_train=3, after_nms_test=1, min_size=10.0)
    boxes = BOXES[[1, 0, 2, 3]][None]  # the small one first
    chosen = choose(batch_of((64, 96)), proposals_of(boxes), limits, train=train)
    assert used(chosen) == rows(0, 2, 3)[:count]


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 3), (3, 1)])
def test_images_may_have_any_number(batch_of: MakeBatch, counts: Sequence[int]) -> None:
    batch = batch_of((64, 96), (64, 96))
    given = Proposals.pad([BOXES[[0, 2, 3]][:count] for count in counts], batch.scales)
    chosen = choose(batch, given, ProposalSettings())
    assert [len(used(chosen, image)) for image in range(2)] == list(counts)
    assert chosen.boxes.shape[1] == max(counts)


def test_places_that_held_none_are_never_chosen(batch_of: MakeBatch) -> None:
    batch = batch_of((64, 96))
    nothing = torch.zeros(1, 4).bool()
    given = Proposals(BOXES[None], torch.ones(1, 4), nothing)
    assert used(choose(batch, given, ProposalSettings(min_size=0.0, dedup_on_feature_grid=True))) == []


def test_what_lies_outside_the_image_is_cut_off(batch_of: MakeBatch) -> None:
    boxes = torch.tensor([[[-10.0, -20.0, 50.0, 90.0], [80.0, 0.0, 120.0, 30.0]]])
    given = Proposals(boxes, torch.ones(1, 2), torch.ones(1, 2).bool())
    chosen = choose(batch_of((64, 96)), given, ProposalSettings(dedup_on_feature_grid=True))
    assert used(chosen) == [[0.0, 0.0, 50.0, 64.0], [80.0, 0.0, 96.0, 30.0]]
    limits = ProposalSettings(min_size=16.5)
    assert used(choose(batch_of((64, 96)), given, limits)) == [[0.0, 0.0, 50.0, 64.0]]


@pytest.mark.parametrize("train", [True, False])
def test_images_without_proposals_are_refused_with_the_way_out(
    batch_of: MakeBatch, train: bool
) -> None:
    message = r"came without proposals.*`rcnn propose`.*proposals\.folder.*detect\(images"
    with pytest.raises(ValueError, match=message):
        given_proposals(batch_of((64, 96)), ProposalSettings(), stride=16, train=train)


def test_only_their_order_counts_not_their_scores(batch_of: MakeBatch) -> None:
    given = Proposals(BOXES[None], torch.tensor([[-5.0, 0.0, 7.0, 3.0]]), torch.ones(1, 4).bool())
    chosen = choose(batch_of((64, 96)), given, ProposalSettings(min_size=10.0, score=0.5))
    assert used(chosen) == rows(0, 2, 3)
