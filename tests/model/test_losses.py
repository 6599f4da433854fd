"""The four terms, by hand and against torchvision."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from rcnn.model.losses import LossSettings, PerRoILosses, per_roi_losses, roi_losses, rpn_losses
from rcnn.ops.deltas import encode
from rcnn.ops.losses import overlap_loss
from rcnn.structures import AnchorSamples, RoISamples


@pytest.fixture
def samples(generator: torch.Generator) -> AnchorSamples:
    """Two images, 8 of 40 anchors each, the last slot of the second one unused."""
    indices = torch.stack([torch.randperm(40, generator=generator)[:8] for _ in range(2)])
    labels = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, -1]])
    deltas = torch.randn(2, 8, 4, generator=generator)
    return AnchorSamples(indices, torch.zeros(2, 8, 4), labels, deltas, torch.zeros(2, 8, 4))


@pytest.fixture
def outputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 40, generator=generator), torch.randn(2, 40, 4, generator=generator)


@pytest.fixture
def rois(generator: torch.Generator) -> RoISamples:
    """Two images, 6 RoIs each, the last slot of the second one unused."""
    return RoISamples(
        boxes=torch.zeros(2, 6, 4),
        labels=torch.tensor([[1, 3, 0, 0, 0, 0], [2, 0, 0, 0, 0, -1]]),
        deltas=torch.randn(2, 6, 4, generator=generator),
        matched_boxes=torch.zeros(2, 6, 4),
    )


def _per_roi(
    logits: Tensor, deltas: Tensor | None, rois: RoISamples, settings: LossSettings
) -> PerRoILosses:
    """Of a softmax and deltas that are not normalised."""
    mean, std = torch.zeros(logits.shape[-1], 4), torch.ones(logits.shape[-1], 4)
    return per_roi_losses(logits, deltas, rois, settings, "softmax", mean, std)


def _roi_losses(
    logits: Tensor, deltas: Tensor, rois: RoISamples, settings: LossSettings
) -> tuple[Tensor, Tensor]:
    classes, boxes = roi_losses(_per_roi(logits, deltas, rois, settings), rois.labels)
    assert boxes is not None
    return classes, boxes


def test_rpn_losses_equal_torchvision(
    samples: AnchorSamples, outputs: tuple[Tensor, Tensor]
) -> None:
    logits, deltas = outputs
    labels, targets = -torch.ones(2, 40), torch.zeros(2, 40, 4)
    for i in range(2):
        used = samples.labels[i] >= 0
        labels[i, samples.indices[i, used]] = samples.labels[i, used].float()
        targets[i, samples.indices[i]] = samples.deltas[i]
    oracle = RegionProposalNetwork(
        AnchorGenerator(), torch.nn.Identity(), 0.7, 0.3, 256, 0.5, {}, {}, 0.7
    )
    expected = oracle.compute_loss(
        logits.view(-1, 1), deltas.view(-1, 4), list(labels), list(targets)
    )
    ours = rpn_losses(logits, deltas, samples, locations=10, settings=LossSettings())
    assert_close(ours, expected)


def test_roi_losses_equal_torchvision(rois: RoISamples, generator: torch.Generator) -> None:
    rois = replace(rois, labels=rois.labels.clamp(min=0))  # it has no unused slots
    logits = torch.randn(2, 6, 4, generator=generator)
    deltas = torch.randn(2, 6, 4, 4, generator=generator)
    expected = fastrcnn_loss(
        logits.flatten(0, 1), deltas.flatten(0, 1).flatten(1), list(rois.labels), list(rois.deltas)
    )
    ours = _roi_losses(logits, deltas, rois, LossSettings(roi_box_beta=1 / 9))
    assert_close(ours, expected)  # its knee is fixed


def test_boxes_are_divided_by_the_sampled_anchors(
    samples: AnchorSamples, outputs: tuple[Tensor, Tensor]
) -> None:
    logits, deltas = outputs
    chosen = deltas.gather(1, samples.indices[:, :, None].expand(-1, -1, 4))
    off_by_one = replace(samples, deltas=chosen + 1)
    settings = LossSettings(rpn_box_beta=1.0)
    _, boxes = rpn_losses(logits, deltas, off_by_one, locations=10, settings=settings)
    # four positives, each 4 x 0.5, over 15 sampled anchors
    assert_close(boxes, torch.tensor(4 * 2.0 / 15))


def test_lambda_10_over_2400_locations_is_about_lambda_1_over_256_samples() -> None:
    """As section 3.1.2 of the paper says: both then weigh a positive about equally."""
    samples = AnchorSamples(
        indices=torch.arange(256).expand(2, -1),
        boxes=torch.zeros(2, 256, 4),
        matched_boxes=torch.zeros(2, 256, 4),
        labels=torch.cat([torch.ones(2, 50), torch.zeros(2, 206)], dim=1).long(),
        deltas=torch.ones(2, 256, 4),
    )
    logits, deltas = torch.zeros(2, 300), torch.zeros(2, 300, 4)
    paper = LossSettings(rpn_box_weight=10.0, rpn_box_divisor="locations")
    _, by_paper = rpn_losses(logits, deltas, samples, locations=2400, settings=paper)
    _, by_code = rpn_losses(logits, deltas, samples, locations=2400, settings=LossSettings())
    assert_close(by_paper / by_code, torch.tensor(10 * 256 / 2400))
    # The number of images changes neither.
    one = AnchorSamples(*(tensor[:1] for tensor in vars(samples).values()))
    _, alone = rpn_losses(logits[:1], deltas[:1], one, locations=2400, settings=paper)
    assert_close(alone, by_paper)


def test_weights_multiply_the_box_terms_alone(
    samples: AnchorSamples, outputs: tuple[Tensor, Tensor], rois: RoISamples
) -> None:
    heavy = LossSettings(rpn_box_weight=3.0, roi_box_weight=5.0)
    plain = LossSettings()
    one, three = (rpn_losses(*outputs, samples, 10, s) for s in (plain, heavy))
    assert_close(three[0], one[0])
    assert_close(three[1], 3 * one[1])
    logits, deltas = torch.randn(2, 6, 4), torch.randn(2, 6, 4, 4)
    one, five = (_roi_losses(logits, deltas, rois, s) for s in (plain, heavy))
    assert_close(five[0], one[0])
    assert_close(five[1], 5 * one[1])


def test_deltas_are_compared_as_the_class_normalises_them(
    rois: RoISamples, generator: torch.Generator
) -> None:
    mean, std = torch.randn(4, 4, generator=generator), torch.rand(4, 4, generator=generator) + 0.1
    predicted = (rois.deltas[:, :, None] - mean) / std + 0.25  # off by 0.25 for every class
    logits, settings = torch.zeros(2, 6, 4), LossSettings()
    for deltas in (
        predicted,
        predicted.gather(2, rois.labels.clamp(0)[..., None, None].expand(-1, -1, 1, 4)),
    ):
        terms = per_roi_losses(logits, deltas, rois, settings, "softmax", mean, std)
        assert_close(terms.boxes, (rois.labels > 0) * 4 * 0.25**2 / 2)


def test_background_and_unused_rois_contribute_no_box_loss(rois: RoISamples) -> None:
    deltas = torch.randn(2, 6, 4, 4, requires_grad=True)
    _, boxes = _roi_losses(torch.zeros(2, 6, 4), deltas, rois, LossSettings())
    boxes.backward()
    assert deltas.grad is not None
    touched = deltas.grad.abs().amax(dim=-1) > 0  # (B, R, D)
    expected = torch.zeros(2, 6, 4).bool()
    expected[0, 0, 1] = expected[0, 1, 3] = expected[1, 0, 2] = True  # each its own class
    assert torch.equal(touched, expected)


def test_a_class_agnostic_head_learns_from_every_class(rois: RoISamples) -> None:
    one_set = torch.randn(2, 6, 1, 4)
    logits = torch.zeros(2, 6, 4)
    shared = _roi_losses(logits, one_set, rois, LossSettings())
    repeated = _roi_losses(logits, one_set.expand(-1, -1, 4, -1), rois, LossSettings())
    assert_close(shared, repeated)


def test_nothing_sampled_costs_nothing_and_stays_finite(outputs: tuple[Tensor, Tensor]) -> None:
    logits, deltas = (tensor.requires_grad_() for tensor in outputs)
    nowhere = torch.zeros(2, 8, 4)
    none = AnchorSamples(
        torch.zeros(2, 8).long(), nowhere, -torch.ones(2, 8).long(), nowhere, nowhere
    )
    nowhere = torch.zeros(2, 6, 4)
    no_rois = RoISamples(nowhere, -torch.ones(2, 6).long(), nowhere, nowhere)
    for divisor in ("samples", "locations"):
        terms = rpn_losses(logits, deltas, none, 10, LossSettings(rpn_box_divisor=divisor))
        assert [term.item() for term in terms] == [0.0, 0.0]
        sum(terms).backward()
    terms = _roi_losses(
        logits[:, :6, None].expand(-1, -1, 4), deltas[:, :6, None], no_rois, LossSettings()
    )
    assert [term.item() for term in terms] == [0.0, 0.0]
    sum(terms).backward()
    for tensor in (logits, deltas):
        assert tensor.grad is not None
        assert not tensor.grad.any()


SHIFTED = torch.tensor([10.0, 0.0, 10.0, 0.0])
OVERLAPS = ("iou", "giou", "diou", "ciou")


def _boxes(*shape: int, generator: torch.Generator) -> Tensor:
    corners = torch.rand(*shape, 2, 2, generator=generator).sort(dim=-2).values
    return corners.flatten(-2) * 80 + torch.tensor([0.0, 0.0, 20.0, 20.0])


@pytest.mark.parametrize("kind", OVERLAPS)
def test_an_overlap_is_that_of_the_predicted_box_with_the_true_one(
    kind: Any, samples: AnchorSamples, rois: RoISamples, generator: torch.Generator
) -> None:
    settings = LossSettings(rpn_box_loss=kind, roi_box_loss=kind)
    # The RPN: every anchor is moved to its target and ten pixels farther.
    boxes, ground_truth = (_boxes(2, 8, generator=generator) for _ in range(2))
    anchors = replace(samples, boxes=boxes, matched_boxes=ground_truth)
    deltas = torch.zeros(2, 40, 4)
    for i in range(2):
        deltas[i, anchors.indices[i]] = encode(boxes[i], ground_truth[i] + SHIFTED)
    _, found = rpn_losses(torch.zeros(2, 40), deltas, anchors, 10, settings)
    each = overlap_loss(ground_truth + SHIFTED, ground_truth, kind)[samples.labels == 1]
    assert each.min() > 0
    assert_close(found, each.sum() / 15, atol=1e-5, rtol=1e-5)
    # The box head: so is every RoI, by normalised deltas of its own class.
    boxes, ground_truth = (_boxes(2, 6, generator=generator) for _ in range(2))
    rois = replace(rois, boxes=boxes, matched_boxes=ground_truth)
    mean = torch.randn(4, 4, generator=generator) * 0.1
    std = torch.rand(4, 4, generator=generator) + 0.1
    outputs = torch.randn(2, 6, 4, 4, generator=generator)
    for i, j in (rois.labels > 0).nonzero().tolist():
        k = rois.labels[i, j]
        outputs[i, j, k] = (encode(boxes[i, j], ground_truth[i, j] + SHIFTED) - mean[k]) / std[k]
    terms = per_roi_losses(torch.zeros(2, 6, 4), outputs, rois, settings, "softmax", mean, std)
    _, roi_boxes = roi_losses(terms, rois.labels)
    each = overlap_loss(ground_truth + SHIFTED, ground_truth, kind)[rois.labels > 0]
    assert roi_boxes is not None
    assert_close(roi_boxes, each.sum() / 11, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["smooth_l1", *OVERLAPS])
@pytest.mark.parametrize("labels", [[0, 0, -1], [0, 2, -1], [3, 1, 2]])
def test_each_box_loss_reaches_the_positives_and_nothing_else(
    kind: Any, labels: list[int], generator: torch.Generator
) -> None:
    """0, 1 and 3 objects; unused slots have no area, and predictions may be wild."""
    table = torch.tensor([labels])
    boxes, ground_truth = _boxes(1, 3, generator=generator), _boxes(1, 3, generator=generator)
    boxes[table < 0] = ground_truth[table < 0] = 0.0
    settings = LossSettings(rpn_box_loss=kind, roi_box_loss=kind)
    for spread in (0.3, 50.0):
        deltas = (torch.randn(1, 3, 4, generator=generator) * spread).requires_grad_()
        codes = encode(boxes, ground_truth)
        anchors = AnchorSamples(
            torch.arange(3)[None], boxes, table.clamp(max=1), codes, ground_truth
        )
        _, rpn = rpn_losses(torch.zeros(1, 3), deltas, anchors, 10, settings)
        rois = RoISamples(boxes, table, codes, ground_truth)
        per_class = deltas[:, :, None].expand(-1, -1, 4, -1)
        _, roi = _roi_losses(torch.zeros(1, 3, 4), per_class, rois, settings)
        for loss in (rpn, roi):
            assert loss.isfinite()
            assert (loss > 0) == (table > 0).any()
            (gradient,) = torch.autograd.grad(loss, deltas)
            assert gradient.isfinite().all()
            assert not gradient[table <= 0].any()
            assert spread > 1 or gradient[table > 0].any(dim=-1).all()


def test_the_terms_of_the_rois_add_up_to_the_losses(
    rois: RoISamples, generator: torch.Generator
) -> None:
    logits = torch.randn(2, 6, 4, generator=generator)
    deltas = torch.randn(2, 6, 4, 4, generator=generator)
    terms = _per_roi(logits, deltas, rois, LossSettings(roi_box_weight=2.0))
    assert terms.total.shape == (2, 6)
    assert terms.total[1, 5] == 0  # unused
    assert_close(terms.total.sum() / 11, sum(roi_losses(terms, rois.labels)))


def test_without_deltas_there_is_no_box_loss(rois: RoISamples) -> None:
    terms = _per_roi(torch.zeros(2, 6, 4), None, rois, LossSettings())
    assert torch.equal(terms.total, terms.classes)
    assert roi_losses(terms, rois.labels)[1] is None


def test_half_precision_outputs_give_losses_in_full(
    samples: AnchorSamples, outputs: tuple[Tensor, Tensor], rois: RoISamples
) -> None:
    halves = outputs[0].bfloat16(), outputs[1].bfloat16()
    terms = list(rpn_losses(*halves, samples, 10, LossSettings()))
    logits, deltas = torch.zeros(2, 6, 4).bfloat16(), torch.zeros(2, 6, 4, 4).bfloat16()
    terms += _roi_losses(logits, deltas, rois, LossSettings())
    assert {term.dtype for term in terms} == {torch.float32}
