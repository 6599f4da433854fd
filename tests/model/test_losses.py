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

from rcnn.model.losses import LossSettings, roi_losses, rpn_losses
from rcnn.settings import SettingsError
from rcnn.structures import AnchorSamples, RoISamples


@pytest.fixture
def samples(generator: torch.Generator) -> AnchorSamples:
    """Two images, 8 of 40 anchors each, the last place of the second one unused."""
    indices = torch.stack([torch.randperm(40, generator=generator)[:8] for _ in range(2)])
    labels = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, -1]])
    return AnchorSamples(indices, labels, torch.randn(2, 8, 4, generator=generator))


@pytest.fixture
def outputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 40, generator=generator), torch.randn(2, 40, 4, generator=generator)


@pytest.fixture
def rois(generator: torch.Generator) -> RoISamples:
    """Two images, 6 RoIs each, the last place of the second one unused."""
    return RoISamples(
        boxes=torch.zeros(2, 6, 4),
        labels=torch.tensor([[1, 3, 0, 0, 0, 0], [2, 0, 0, 0, 0, -1]]),
        deltas=torch.randn(2, 6, 4, generator=generator),
        matched_boxes=torch.zeros(2, 6, 4),
    )


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
    rois = replace(rois, labels=rois.labels.clamp(min=0))  # it has no unused places
    logits = torch.randn(2, 6, 4, generator=generator)
    deltas = torch.randn(2, 6, 4, 4, generator=generator)
    expected = fastrcnn_loss(
        logits.flatten(0, 1), deltas.flatten(0, 1).flatten(1), list(rois.labels), list(rois.deltas)
    )
    ours = roi_losses(logits, deltas, rois, LossSettings(roi_box_beta=1 / 9))
    assert_close(ours, expected)  # its knee is fixed


def test_boxes_are_divided_by_the_sampled_anchors(
    samples: AnchorSamples, outputs: tuple[Tensor, Tensor]
) -> None:
    logits, deltas = outputs
    off_by_one = AnchorSamples(
        samples.indices,
        samples.labels,
        deltas.gather(1, samples.indices[:, :, None].expand(-1, -1, 4)) + 1,
    )
    settings = LossSettings(rpn_box_beta=1.0)
    _, boxes = rpn_losses(logits, deltas, off_by_one, locations=10, settings=settings)
    # four positives, each 4 x 0.5, over 15 sampled anchors
    assert_close(boxes, torch.tensor(4 * 2.0 / 15))


def test_lambda_10_over_2400_locations_is_about_lambda_1_over_256_samples() -> None:
    """As section 3.1.2 of the paper says: both then weigh a positive about equally."""
    samples = AnchorSamples(
        indices=torch.arange(256).expand(2, -1),
        labels=torch.cat([torch.ones(2, 50), torch.zeros(2, 206)], dim=1).long(),
        deltas=torch.ones(2, 256, 4),
    )
    logits, deltas = torch.zeros(2, 300), torch.zeros(2, 300, 4)
    paper = LossSettings(rpn_box_weight=10.0, rpn_box_divisor="locations")
    _, by_paper = rpn_losses(logits, deltas, samples, locations=2400, settings=paper)
    _, by_code = rpn_losses(logits, deltas, samples, locations=2400, settings=LossSettings())
    assert_close(by_paper / by_code, torch.tensor(10 * 256 / 2400))
    # The number of images changes neither.
    one = AnchorSamples(samples.indices[:1], samples.labels[:1], samples.deltas[:1])
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
    one, five = (roi_losses(logits, deltas, rois, s) for s in (plain, heavy))
    assert_close(five[0], one[0])
    assert_close(five[1], 5 * one[1])


def test_background_and_unused_rois_contribute_no_box_loss(rois: RoISamples) -> None:
    deltas = torch.randn(2, 6, 4, 4, requires_grad=True)
    _, boxes = roi_losses(torch.zeros(2, 6, 4), deltas, rois, LossSettings())
    boxes.backward()
    assert deltas.grad is not None
    touched = deltas.grad.abs().amax(dim=-1) > 0  # (B, R, D)
    expected = torch.zeros(2, 6, 4).bool()
    expected[0, 0, 1] = expected[0, 1, 3] = expected[1, 0, 2] = True  # each its own class
    assert torch.equal(touched, expected)


def test_a_class_agnostic_head_learns_from_every_class(rois: RoISamples) -> None:
    one_set = torch.randn(2, 6, 1, 4)
    logits = torch.zeros(2, 6, 4)
    shared = roi_losses(logits, one_set, rois, LossSettings())
    repeated = roi_losses(logits, one_set.expand(-1, -1, 4, -1), rois, LossSettings())
    assert_close(shared, repeated)


def test_nothing_sampled_costs_nothing_and_stays_finite(outputs: tuple[Tensor, Tensor]) -> None:
    logits, deltas = (tensor.requires_grad_() for tensor in outputs)
    none = AnchorSamples(torch.zeros(2, 8).long(), -torch.ones(2, 8).long(), torch.zeros(2, 8, 4))
    no_rois = RoISamples(
        torch.zeros(2, 6, 4), -torch.ones(2, 6).long(), torch.zeros(2, 6, 4), torch.zeros(2, 6, 4)
    )
    for divisor in ("samples", "locations"):
        terms = rpn_losses(logits, deltas, none, 10, LossSettings(rpn_box_divisor=divisor))
        assert [term.item() for term in terms] == [0.0, 0.0]
        sum(terms).backward()
    terms = roi_losses(
        logits[:, :6, None].expand(-1, -1, 4), deltas[:, :6, None], no_rois, LossSettings()
    )
    assert [term.item() for term in terms] == [0.0, 0.0]
    sum(terms).backward()
    for tensor in (logits, deltas):
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_half_precision_outputs_give_losses_in_full(
    samples: AnchorSamples, outputs: tuple[Tensor, Tensor], rois: RoISamples
) -> None:
    terms = rpn_losses(outputs[0].bfloat16(), outputs[1].bfloat16(), samples, 10, LossSettings())
    assert all(term.dtype == torch.float32 for term in terms)
    logits, deltas = torch.zeros(2, 6, 4).bfloat16(), torch.zeros(2, 6, 4, 4).bfloat16()
    assert all(
        term.dtype == torch.float32 for term in roi_losses(logits, deltas, rois, LossSettings())
    )


@pytest.mark.parametrize(
    "key", ["rpn_box_weight", "rpn_box_beta", "roi_box_weight", "roi_box_beta"]
)
def test_negative_numbers_are_named(key: str) -> None:
    changes: dict[str, Any] = {key: -1.0}
    with pytest.raises(SettingsError, match=f"^{key}=-1.0"):
        LossSettings(**changes)
