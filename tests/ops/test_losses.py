"""The terms of the losses against published numbers and torch's own functions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from rcnn.ops.losses import (
    classification_loss,
    deltas_of_class,
    masked_box_loss,
    objectness_loss,
    smooth_l1,
)


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


def test_classification_equals_torch() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 6, 4, generator=generator)
    labels = torch.randint(0, 4, (2, 6), generator=generator)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert_close(classification_loss(logits, labels), expected)


def test_unused_rois_do_not_change_the_classification_loss() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 6, 4, generator=generator)
    labels = torch.randint(0, 4, (2, 6), generator=generator)
    more_logits = torch.cat([logits, 100 * torch.ones(2, 3, 4)], dim=1)
    more_labels = torch.cat([labels, -torch.ones(2, 3).long()], dim=1)
    assert_close(classification_loss(more_logits, more_labels), classification_loss(logits, labels))


def test_boxes_are_learned_from_positives_alone_but_divided_by_what_is_given() -> None:
    """Seed document 003 applies the box loss to background too."""
    predicted = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [50.0, 50.0, 50.0, 50.0], [9.0] * 4]])
    predicted.requires_grad_()
    labels = torch.tensor([[3, 0, -1]])
    loss = masked_box_loss(predicted, torch.zeros(1, 3, 4), labels, 1.0, torch.tensor(2))
    assert_close(loss, torch.tensor((0.5 + 1.5 + 2.5 + 3.5) / 2))
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad[0, 0].tolist() == [0.5] * 4
    assert predicted.grad[0, 1:].abs().max() == 0


@pytest.mark.parametrize("labels", [[[0, 0]], [[-1, -1]]])
def test_without_positives_the_box_loss_is_zero_with_zero_gradient(labels: list[list[int]]) -> None:
    predicted = torch.randn(1, 2, 4, requires_grad=True)
    used = (torch.tensor(labels) >= 0).sum()
    loss = masked_box_loss(predicted, torch.ones(1, 2, 4), torch.tensor(labels), 1.0, used)
    assert loss == 0
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad.abs().max() == 0


def test_without_any_sample_every_loss_is_zero_and_finite() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    class_logits = torch.randn(2, 3, 5, requires_grad=True)
    nothing = -torch.ones(2, 3).long()
    total = objectness_loss(logits, nothing) + classification_loss(class_logits, nothing)
    assert total == 0
    total.backward()
    for tensor in (logits, class_logits):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() == 0


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
