"""Balanced random samples, counted exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from rcnn.ops.sampling import Sample, hard_rois, sample_balanced, take_rois
from rcnn.structures import RoISamples


def _masks(labels: list[list[int]]) -> tuple[Tensor, Tensor]:
    table = torch.tensor(labels)
    return table == 1, table == 0


def _drawn(sample: Sample, image: int) -> tuple[list[int], list[int]]:
    """Indices drawn as positives and as negatives."""
    indices = sample.indices[image]
    return indices[sample.positive[image]].tolist(), indices[sample.negative[image]].tolist()


@given(
    st.lists(st.lists(st.integers(-1, 1), min_size=8, max_size=8), min_size=1, max_size=4),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=150)
def test_counts_are_exact_for_every_mix(
    labels: list[list[int]], places: int, fraction: float, repeat: bool, seed: int
) -> None:
    positive, negative = _masks(labels)
    generator = torch.Generator().manual_seed(seed)
    sample = sample_balanced(positive, negative, places, fraction, repeat, generator)
    assert sample.indices.shape == (len(labels), places)
    assert not (sample.positive & sample.negative).any()
    unused = ~(sample.positive | sample.negative)
    assert (sample.indices[unused] == 0).all()
    for image, row in enumerate(labels):
        positives, negatives = _drawn(sample, image)
        # Only candidates are drawn.
        assert all(row[i] == 1 for i in positives)
        assert all(row[i] == 0 for i in negatives)
        most = min(row.count(1), int(places * fraction))
        rest = min(row.count(0), places - most)
        if not repeat:
            assert len(set(positives)) == len(positives) == most
            assert len(set(negatives)) == len(negatives) == rest
        elif row.count(0):
            assert len(set(positives)) == len(positives) == most
            assert len(negatives) == places - most  # full
            assert len(set(negatives)) == rest  # each once before any comes twice
        elif most:
            assert len(positives) == places
            assert len(set(positives)) == most
        else:
            assert not positives
            assert not negatives
        order = sample.positive[image].long() * 2 + sample.negative[image].long()
        assert torch.equal(order, order.sort(descending=True).values)  # positives, negatives, rest


def test_repeated_negatives_come_equally_often() -> None:
    positive, negative = _masks([[1, 0, 0, 0, -1, -1]])
    sample = sample_balanced(positive, negative, 10, 0.1, repeat=True)
    positives, negatives = _drawn(sample, 0)
    assert positives == [0]
    assert sorted(negatives) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_every_candidate_is_equally_likely() -> None:
    images = 4000
    row = [1] * 10 + [0] * 30 + [-1] * 5
    positive, negative = _masks([row])
    sample = sample_balanced(
        positive.expand(images, -1),
        negative.expand(images, -1),
        12,
        0.25,
        generator=torch.Generator().manual_seed(0),
    )
    used = (sample.positive | sample.negative).flatten()
    counts = torch.bincount(sample.indices.flatten()[used], minlength=len(row)) / images
    # 3 of 10 and 9 of 30 are drawn; the standard deviation of a frequency is 0.007.
    assert_close(counts[:40], torch.full((40,), 0.3), atol=0.04, rtol=0.0)
    assert counts[40:].max() == 0
    # The order is random too: the first place is anyone's.
    first = torch.bincount(sample.indices[:, 0], minlength=10) / images
    assert_close(first[:10], torch.full((10,), 0.1), atol=0.03, rtol=0.0)


def test_two_candidates_are_drawn_independently() -> None:
    images = 4000
    negative = torch.ones(images, 6).bool()
    sample = sample_balanced(
        ~negative, negative, 3, 0.5, generator=torch.Generator().manual_seed(1)
    )
    drawn = torch.zeros(images, 6).scatter_(1, sample.indices, 1.0)
    together = (drawn.T @ drawn / images)[~torch.eye(6).bool()]
    # 3/6 times 2/5 without replacement
    assert_close(together, torch.full((30,), 0.2), atol=0.04, rtol=0.0)


def test_what_one_image_draws_does_not_depend_on_the_labels_of_another() -> None:
    row = [1, 0, 0, 1, 0, -1, 0, 0]
    draws = []
    for other in ([0] * 8, [-1] * 8, [1] * 8):
        positive, negative = _masks([row, other])
        draws.append(
            sample_balanced(
                positive, negative, 4, 0.25, generator=torch.Generator().manual_seed(3)
            ).indices[0]
        )
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


def test_no_candidates_at_all() -> None:
    nothing = torch.zeros(2, 0).bool()
    sample = sample_balanced(nothing, nothing, 5, 0.5, repeat=True)
    assert sample.indices.shape == (2, 5)
    assert not (sample.positive | sample.negative).any()


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_the_generator_decides_or_else_the_global_one(own: bool, repeat: bool) -> None:
    masks, draws = _masks([[1, 0] * 50]), []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 1, 2):
            generator = torch.Generator() if own else torch.default_generator
            generator.manual_seed(seed)
            before = torch.get_rng_state()
            given = generator if own else None
            draws.append(sample_balanced(*masks, 20, 0.5, repeat, given).indices)
            assert torch.equal(torch.get_rng_state(), before) == own
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_an_unused_place_holds_a_copy_of_a_roi_that_was_drawn() -> None:
    numbers = torch.arange(2 * 5 * 4).float().view(2, 5, 4)
    candidates = RoISamples(numbers, torch.tensor([[1, 0, 2, 0, 3]] * 2), numbers + 1, numbers + 2)
    indices = torch.tensor([[2, 3, 0, 0], [4, 0, 0, 0]])
    used = torch.tensor([[True, True, False, False], [False] * 4])
    rois = take_rois(candidates, indices, used)
    assert rois.labels.tolist() == [[2, 0, -1, -1], [-1] * 4]
    places = torch.tensor([2, 3, 2, 3])
    assert torch.equal(rois.boxes[0], numbers[0, places])
    assert torch.equal(rois.deltas[0], numbers[0, places] + 1)
    assert torch.equal(rois.matched_boxes[0], numbers[0, places] + 2)
    assert torch.equal(rois.boxes[1], numbers[1, [4] * 4])


def _candidates(boxes: Tensor, labels: Tensor) -> RoISamples:
    numbers = torch.arange(boxes.numel()).float().view(boxes.shape)
    return RoISamples(boxes, labels, numbers, -numbers)


def _apart(count: int) -> Tensor:
    return torch.arange(count).float()[:, None] * 20 + torch.tensor([0.0, 0.0, 10.0, 10.0])


def test_the_largest_losses_of_each_image_are_kept() -> None:
    boxes, labels = _apart(5).expand(2, 5, 4), torch.tensor([[1, 0, 2, 0, 0], [0, 0, 0, 3, 0]])
    candidates = _candidates(boxes.clone(), labels)
    losses = torch.tensor([[0.1, 0.5, 0.3, 0.9, 0.2], [0.5, 0.4, 0.3, 0.2, 0.1]])
    rois = hard_rois(candidates, losses, 3)
    assert rois.labels.tolist() == [[0, 0, 2], [0, 0, 0]]  # whatever their label
    for i, places in enumerate(([3, 1, 2], [0, 1, 2])):
        assert torch.equal(rois.boxes[i], boxes[i, places])
        assert torch.equal(rois.deltas[i], candidates.deltas[i, places])
        assert torch.equal(rois.matched_boxes[i], candidates.matched_boxes[i, places])


def test_of_rois_that_lie_on_each_other_only_the_hardest_is_kept() -> None:
    boxes = torch.tensor(
        [
            [
                [0.0, 0.0, 10.0, 10.0],
                [0.0, 0.0, 10.0, 8.0],  # IoU 0.8 with the first
                [0.0, 0.0, 10.0, 6.5],  # 0.65 with the first, 0.81 with the second
                [50.0, 0.0, 60.0, 10.0],
            ]
        ]
    )
    losses = torch.tensor([[0.5, 0.4, 0.3, 0.1]])
    rois = hard_rois(_candidates(boxes, torch.tensor([[1, 1, 0, 0]])), losses, 4)
    assert rois.labels.tolist() == [[1, 0, 0, -1]]
    assert torch.equal(rois.boxes[0, :3], boxes[0, [0, 2, 3]])
    # The second is the hardest: it alone is left of the three.
    losses = torch.tensor([[0.4, 0.5, 0.3, 0.1]])
    rois = hard_rois(_candidates(boxes, torch.tensor([[1, 1, 0, 0]])), losses, 4)
    assert rois.labels.tolist() == [[1, 0, -1, -1]]
    assert torch.equal(rois.boxes[0, :2], boxes[0, [1, 3]])


def test_what_takes_no_part_is_not_kept_and_suppresses_nothing() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]]]).expand(2, 2, 4)
    candidates = _candidates(boxes.clone(), torch.tensor([[-1, 0], [-1, -1]]))
    rois = hard_rois(candidates, torch.tensor([[9.0, 0.0], [1.0, 1.0]]), 2)
    assert rois.labels.tolist() == [[0, -1], [-1, -1]]
    assert torch.equal(rois.boxes[0], boxes[0, [1, 1]])  # an empty place holds a copy
