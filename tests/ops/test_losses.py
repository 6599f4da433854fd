"""The terms of the losses against published numbers and torch's own functions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import (
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
)

from rcnn.ops.losses import (
    class_scores,
    classification_losses,
    deltas_of_class,
    objectness_loss,
    overlap_loss,
    smooth_l1,
)
from tests.ops.inputs import GEOMETRY, random_boxes


def _four(value: float) -> Tensor:
    """A box's deltas of which only the first differs from zero."""
    return torch.tensor([value, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(("beta", "key"), [(0.5, "beta_0_5"), (0.05, "beta_0_05")])
def test_published_smooth_l1(beta: float, key: str) -> None:
    case = GEOMETRY["smooth_l1"]
    predicted = torch.stack([_four(float(x)) for x in case["x"]])
    target = torch.stack([_four(float(t)) for t in case["t"]])
    assert_close(smooth_l1(predicted, target, beta), torch.tensor(case[key]))


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


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        ("giou", generalized_box_iou_loss),
        ("diou", distance_box_iou_loss),
        ("ciou", complete_box_iou_loss),
    ],
)
def test_overlap_losses_and_gradients_equal_torchvisions(kind: Any, oracle: Any) -> None:
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


LOG2, LOG4 = torch.tensor([2.0, 4.0]).log().tolist()


@pytest.fixture
def logits(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(2, 6, 4, generator=generator) * 2


@pytest.fixture
def labels(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 4, (2, 6), generator=generator)


def test_softmax_equals_torch(logits: torch.Tensor, labels: torch.Tensor) -> None:
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert_close(classification_losses(logits, labels, "softmax").mean(), expected)
    assert_close(class_scores(logits, "softmax"), logits.softmax(-1)[:, :, 1:])


def test_one_vs_rest_is_a_logistic_regression_of_each_class(
    logits: torch.Tensor, labels: torch.Tensor
) -> None:
    terms = classification_losses(logits, labels, "one_vs_rest")
    expected = torch.zeros(2, 6)
    for k in (1, 2, 3):
        wanted = (labels == k).float()
        expected += F.binary_cross_entropy(logits[:, :, k].sigmoid(), wanted, reduction="none")
    assert_close(terms, expected)


def test_one_vs_rest_by_hand() -> None:
    # Certain of class 2, undecided about the others; the first number is background's.
    logits = torch.tensor([99.0, 0.0, 50.0, 0.0])
    terms = classification_losses(logits.expand(4, 4), torch.tensor([2, 0, 1, -1]), "one_vs_rest")
    wrong = 2 * LOG2 + 50
    assert_close(terms, torch.tensor([2 * LOG2, wrong, wrong, 0.0]))
    assert class_scores(logits, "one_vs_rest").tolist() == [0.5, 1.0, 0.5]


@pytest.mark.parametrize(
    ("classifier", "ignorance"), [("softmax", LOG4), ("one_vs_rest", 3 * LOG2)]
)
def test_unused_rois_have_no_loss(classifier: Any, ignorance: float) -> None:
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    terms = classification_losses(logits, torch.tensor([[1, -1, 0]]), classifier)
    assert_close(terms, torch.tensor([[ignorance, 0.0, ignorance]]))
    terms.sum().backward()
    assert logits.grad is not None
    assert not logits.grad[0, 1].any()


@pytest.mark.parametrize("classifier", ["softmax", "one_vs_rest"])
def test_background_learns_in_one_choice_alone(classifier: Any) -> None:
    logits = torch.zeros(5, 4, requires_grad=True)
    classification_losses(logits, torch.tensor([0, 1, 2, 3, -1]), classifier).sum().backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].any() == (classifier == "softmax")
    assert logits.grad[:4, 1:].all()


@pytest.mark.parametrize("classifier", ["softmax", "one_vs_rest"])
def test_extreme_logits_and_no_rois_stay_finite(classifier: Any) -> None:
    extreme = torch.tensor([[1e4, -1e4, 1e4], [-1e4, 1e4, 1e4]], requires_grad=True)
    terms = classification_losses(extreme, torch.tensor([1, 0]), classifier)
    (gradient,) = torch.autograd.grad(terms.sum(), extreme)
    assert terms.isfinite().all()
    assert gradient.isfinite().all()
    none = classification_losses(torch.zeros(2, 0, 4), torch.zeros(2, 0).long(), classifier)
    assert none.shape == (2, 0)
