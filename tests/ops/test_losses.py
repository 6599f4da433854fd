"""The terms of the losses against published numbers and torch's own functions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import (
    box_iou,
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou,
    generalized_box_iou_loss,
)

from rcnn.ops.losses import deltas_of_class, objectness_loss, overlap_loss, smooth_l1

Boxes = Callable[..., Tensor]


def _four(value: float) -> Tensor:
    """A box's deltas of which only the first differs from zero."""
    return torch.tensor([value, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(("beta", "key"), [(0.5, "beta_0_5"), (0.05, "beta_0_05")])
def test_published_smooth_l1(geometry: dict[str, Any], beta: float, key: str) -> None:
    case = geometry["smooth_l1"]
    predicted = torch.stack([_four(float(x)) for x in case["x"]])
    target = torch.stack([_four(float(t)) for t in case["t"]])
    assert_close(smooth_l1(predicted, target, beta), torch.tensor(case[key]))


@pytest.mark.parametrize("beta", [1.0, 1 / 9, 0.0])
def test_smooth_l1_equals_torch_and_sums_over_the_four_numbers(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 5, 7, 4, generator=generator)
    expected = F.smooth_l1_loss(predicted, target, reduction="none", beta=beta).sum(-1)
    assert_close(smooth_l1(predicted, target, beta), expected)
    assert smooth_l1(predicted, target, beta).shape == (5, 7)


@pytest.mark.parametrize("beta", [1.0, 1 / 9])
def test_the_two_pieces_of_smooth_l1_meet_at_the_knee(beta: float) -> None:
    """Seed document 001 puts the knee at 0.5, where the pieces do not meet."""
    zero, step = torch.zeros(1, 4), 1e-4
    at = smooth_l1(_four(beta)[None], zero, beta)
    assert_close(at, torch.tensor([beta / 2]))
    for x in (beta - step, beta + step):
        assert abs(smooth_l1(_four(x)[None], zero, beta) - at) < 2 * step
    # The slope grows up to 1 and stays there.
    for x, slope in [(beta / 2, 0.5), (beta * 0.999, 0.999), (beta * 2, 1.0), (beta * 50, 1.0)]:
        predicted = _four(x)[None].requires_grad_()
        (gradient,) = torch.autograd.grad(smooth_l1(predicted, zero, beta).sum(), predicted)
        assert_close(gradient[0, 0], torch.tensor(slope))


KINDS = ("iou", "giou", "diou", "ciou")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("iou", 1 - 50 / 150),
        ("giou", 1 - 50 / 150),  # nothing of the box around both is empty
        ("diou", 1 - 50 / 150 + 25 / (15**2 + 10**2)),  # the centres are 5 apart
        ("ciou", 1 - 50 / 150 + 25 / (15**2 + 10**2)),  # both are squares
    ],
)
def test_overlap_losses_by_hand(kind: Any, expected: float) -> None:
    predicted = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    target = torch.tensor([[5.0, 0.0, 15.0, 10.0]])
    assert_close(overlap_loss(predicted, target, kind), torch.tensor([expected]))


def test_boxes_apart_differ_by_their_distance_but_not_by_their_iou() -> None:
    predicted = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).expand(2, 4)
    target = torch.tensor([[10.0, 0.0, 20.0, 10.0], [30.0, 0.0, 40.0, 10.0]])
    assert overlap_loss(predicted, target, "iou").tolist() == [1.0, 1.0]
    # half of the 40 x 10 pixels around both are in neither
    assert_close(overlap_loss(predicted, target, "giou"), torch.tensor([1.0, 1.5]))
    near, far = overlap_loss(predicted, target, "diou").tolist()
    assert 1 < near < far < 2


def test_the_aspect_ratio_is_what_ciou_adds() -> None:
    predicted = torch.tensor([[0.0, 0.0, 20.0, 10.0], [0.0, 0.0, 20.0, 10.0]])
    target = torch.tensor([[0.0, 0.0, 10.0, 20.0], [0.0, 0.0, 40.0, 20.0]])
    added = overlap_loss(predicted, target, "ciou") - overlap_loss(predicted, target, "diou")
    assert added[0] > 0.01
    assert_close(added[1], torch.tensor(0.0))


def test_overlap_losses_equal_torchvisions_overlaps(random_boxes: Boxes) -> None:
    predicted, target = random_boxes(0, 3, 5) + 1, random_boxes(1, 3, 5)
    for kind, oracle in (("iou", box_iou), ("giou", generalized_box_iou)):
        overlap = oracle(predicted.flatten(0, 1), target.flatten(0, 1)).diagonal().view(3, 5)
        assert_close(overlap_loss(predicted, target, kind), 1 - overlap, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        ("giou", generalized_box_iou_loss),
        ("diou", distance_box_iou_loss),
        ("ciou", complete_box_iou_loss),
    ],
)
def test_overlap_losses_and_gradients_equal_torchvisions(
    kind: Any, oracle: Any, random_boxes: Boxes
) -> None:
    target, results = random_boxes(4, 200), []
    for loss in (lambda one: overlap_loss(one, target, kind), lambda one: oracle(one, target)):
        predicted = (random_boxes(3, 200) + random_boxes(5, 200) / 20).requires_grad_()
        terms = loss(predicted)
        results.append((terms.detach(), *torch.autograd.grad(terms.sum(), predicted)))
    assert_close(results[0], results[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(0.0, 0.0), (0.0, 10.0), (10.0, 0.0), (-3.0, 4.0), (1e-20, 1e-9)])
def test_a_box_without_area_has_a_finite_loss_and_gradient(kind: Any, size: Any) -> None:
    flat = torch.tensor([[7.0, 7.0, 7.0 + size[0], 7.0 + size[1]]])
    whole = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    for predicted, target in ((flat, whole), (whole, flat), (flat, flat)):
        predicted = predicted.clone().requires_grad_()
        loss = overlap_loss(predicted, target, kind)
        (gradient,) = torch.autograd.grad(loss.sum(), predicted)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_boxes_have_no_overlap_loss(kind: Any) -> None:
    assert overlap_loss(torch.zeros(2, 0, 4), torch.zeros(2, 0, 4), kind).shape == (2, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_down_the_gradient_brings_the_boxes_closer(kind: Any, random_boxes: Boxes) -> None:
    target = random_boxes(2, 20) + torch.tensor([0.0, 0.0, 5.0, 5.0])
    predicted = (target + 1.5).requires_grad_()
    loss = overlap_loss(predicted, target, kind)
    assert loss.min() > 0
    (gradient,) = torch.autograd.grad(loss.sum(), predicted)
    nearer = overlap_loss((predicted - 0.1 * gradient / gradient.norm()).detach(), target, kind)
    assert nearer.sum() < loss.sum()
    assert_close(overlap_loss(target, target, kind), torch.zeros(20), atol=1e-6, rtol=0.0)


def test_two_way_softmax_is_the_cross_entropy_of_the_difference() -> None:
    generator = torch.Generator().manual_seed(1)
    background, object_ = torch.randn(2, 3, 8, generator=generator) * 4
    labels = torch.randint(-1, 2, (3, 8), generator=generator)
    pairs = torch.stack([background, object_], dim=-1).flatten(0, 1)
    expected = F.cross_entropy(pairs, labels.flatten(), ignore_index=-1)
    assert_close(objectness_loss(object_ - background, labels), expected)


def test_objectness_is_averaged_over_the_sampled_anchors_alone() -> None:
    logits = torch.tensor([[0.0, 0.0, 9.0], [0.0, -7.0, 9.0]])
    labels = torch.tensor([[1, 0, -1], [0, -1, -1]])
    assert_close(objectness_loss(logits, labels), torch.tensor(2.0).log())


def test_without_any_sample_objectness_is_zero_and_finite() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    total = objectness_loss(logits, -torch.ones(2, 3).long())
    assert total == 0
    total.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]], requires_grad=True)
    loss = objectness_loss(logits, torch.tensor([[1, 0, 0, 1]]))
    assert_close(loss, torch.tensor(5e3))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_each_roi_has_the_deltas_of_its_own_class() -> None:
    deltas = torch.arange(2 * 3 * 4 * 4).float().view(2, 3, 4, 4)
    labels = torch.tensor([[0, 1, 3], [2, -1, 3]])
    chosen = deltas_of_class(deltas, labels)
    for i in range(2):
        for j in range(3):
            assert torch.equal(chosen[i, j], deltas[i, j, max(int(labels[i, j]), 0)])


def test_a_class_agnostic_head_has_one_set_of_deltas() -> None:
    deltas = torch.randn(2, 3, 1, 4)
    chosen = deltas_of_class(deltas, torch.tensor([[0, 5, 9], [-1, 2, 3]]))
    assert torch.equal(chosen, deltas[:, :, 0])
