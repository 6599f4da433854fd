"""What class logits mean, as one choice and as many questions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from rcnn.ops.losses import class_scores, classification_terms

LOG2, LOG4 = torch.tensor([2.0, 4.0]).log().tolist()


@pytest.fixture
def logits(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(2, 6, 4, generator=generator) * 2


@pytest.fixture
def labels(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 4, (2, 6), generator=generator)


def test_softmax_equals_torch(logits: torch.Tensor, labels: torch.Tensor) -> None:
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert_close(classification_terms(logits, labels, "softmax").mean(), expected)
    assert_close(class_scores(logits, "softmax"), logits.softmax(-1)[:, :, 1:])


def test_one_vs_rest_is_a_logistic_regression_of_each_class(
    logits: torch.Tensor, labels: torch.Tensor
) -> None:
    terms = classification_terms(logits, labels, "one_vs_rest")
    expected = torch.zeros(2, 6)
    for k in (1, 2, 3):
        wanted = (labels == k).float()
        expected += F.binary_cross_entropy(logits[:, :, k].sigmoid(), wanted, reduction="none")
    assert_close(terms, expected)


def test_one_vs_rest_by_hand() -> None:
    # Certain of class 2, undecided about the others; the first number is background's.
    logits = torch.tensor([99.0, 0.0, 50.0, 0.0])
    terms = classification_terms(logits.expand(4, 4), torch.tensor([2, 0, 1, -1]), "one_vs_rest")
    wrong = 2 * LOG2 + 50
    assert_close(terms, torch.tensor([2 * LOG2, wrong, wrong, 0.0]))
    assert class_scores(logits, "one_vs_rest").tolist() == [0.5, 1.0, 0.5]


def test_several_classes_may_be_likely_at_once_or_none() -> None:
    logits = torch.tensor([[0.0, 9.0, 9.0], [0.0, -9.0, -9.0]])
    assert (class_scores(logits, "one_vs_rest")[0] > 0.99).all()
    assert (class_scores(logits, "one_vs_rest")[1] < 0.01).all()
    assert (class_scores(logits, "softmax")[0] < 0.5).all()


@pytest.mark.parametrize(
    ("classifier", "ignorance"), [("softmax", LOG4), ("one_vs_rest", 3 * LOG2)]
)
def test_unused_rois_have_no_loss(classifier: Any, ignorance: float) -> None:
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    terms = classification_terms(logits, torch.tensor([[1, -1, 0]]), classifier)
    assert_close(terms, torch.tensor([[ignorance, 0.0, ignorance]]))
    terms.sum().backward()
    assert logits.grad is not None
    assert not logits.grad[0, 1].any()


@pytest.mark.parametrize("classifier", ["softmax", "one_vs_rest"])
def test_background_learns_in_one_choice_alone(classifier: Any) -> None:
    logits = torch.zeros(5, 4, requires_grad=True)
    classification_terms(logits, torch.tensor([0, 1, 2, 3, -1]), classifier).sum().backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].any() == (classifier == "softmax")
    assert logits.grad[:4, 1:].all()


@pytest.mark.parametrize("classifier", ["softmax", "one_vs_rest"])
def test_extreme_logits_and_no_rois_stay_finite(classifier: Any) -> None:
    extreme = torch.tensor([[1e4, -1e4, 1e4], [-1e4, 1e4, 1e4]], requires_grad=True)
    terms = classification_terms(extreme, torch.tensor([1, 0]), classifier)
    (gradient,) = torch.autograd.grad(terms.sum(), extreme)
    assert terms.isfinite().all()
    assert gradient.isfinite().all()
    none = classification_terms(torch.zeros(2, 0, 4), torch.zeros(2, 0).long(), classifier)
    assert none.shape == (2, 0)
