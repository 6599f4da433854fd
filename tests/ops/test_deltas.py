"""Box codes: the way from one box to another and back."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from rcnn.ops.deltas import LARGEST_LOG_RATIO, decode, encode
from tests.ops.inputs import GEOMETRY, random_boxes

side = st.integers(4, 4000).map(lambda quarter: quarter / 4)
corner = st.integers(-2000, 4000).map(lambda quarter: quarter / 4)
box = st.tuples(corner, corner, side, side).map(lambda c: (c[0], c[1], c[0] + c[2], c[1] + c[3]))


def test_a_box_moved_and_enlarged_by_hand() -> None:
    anchor = torch.tensor([10.0, 10.0, 30.0, 50.0])  # 20 x 40 around (20, 30)
    target = torch.tensor([20.0, 20.0, 60.0, 40.0])  # 40 x 20 around (40, 30)
    deltas = torch.tensor([1.0, 0.0, math.log(2), -math.log(2)])
    assert_close(encode(anchor, target), deltas)
    assert_close(decode(anchor, deltas), target)


def test_published_codes_with_both_weights() -> None:
    case = GEOMETRY["box_coder"]
    anchors, boxes = torch.tensor(case["proposals"]), torch.tensor(case["gt"]).float()
    near: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}
    assert_close(encode(anchors, boxes), torch.tensor(case["weights_1"]), **near)
    # Weights 10, 10, 5, 5 are another spelling of the standard deviations 0.1, 0.1, 0.2, 0.2.
    std = torch.tensor([0.1, 0.1, 0.2, 0.2])
    weighted = torch.tensor(case["weights_10_10_5_5"])
    assert_close(encode(anchors, boxes) / std, weighted, **near)
    assert_close(decode(anchors, weighted * std), boxes, **near)


def test_codes_equal_torchvision() -> None:
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    anchors, boxes = random_boxes(0, 200) + torch.tensor([0, 0, 5, 5]), random_boxes(1, 200)
    boxes[:, 2:] += 5
    assert_close(encode(anchors, boxes), coder.encode_single(boxes, anchors))
    generator = torch.Generator().manual_seed(2)
    deltas = torch.randn(200, 4, generator=generator) * 3  # many beyond the clamp
    assert (deltas[:, 2:] > LARGEST_LOG_RATIO).any()
    assert_close(decode(anchors, deltas), coder.decode_single(deltas, anchors))


def test_decoding_grows_16_pixels_to_at_most_1000() -> None:
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    at_limit = decode(anchor, torch.tensor([[0.0, 0.0, math.log(1000 / 16), 0.0]]))
    beyond = decode(anchor, torch.tensor([[0.0, 0.0, 50.0, 0.0]]))
    assert_close(at_limit, torch.tensor([[-492.0, 0.0, 508.0, 16.0]]))
    assert_close(beyond, at_limit)
    # There is no limit on shrinking.
    shrunk = decode(anchor, torch.tensor([[0.0, 0.0, -50.0, -50.0]]))
    assert_close(shrunk, torch.tensor([[8.0, 8.0, 8.0, 8.0]]))


@given(st.lists(st.tuples(box, box), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_decoding_undoes_encoding(pairs: list[tuple[Any, Any]]) -> None:
    anchors = torch.tensor([pair[0] for pair in pairs])
    boxes = torch.tensor([pair[1] for pair in pairs])
    growth = (boxes[:, 2:] - boxes[:, :2]) / (anchors[:, 2:] - anchors[:, :2])
    reachable = (growth.log() < LARGEST_LOG_RATIO).all(dim=-1)
    assert_close(
        decode(anchors, encode(anchors, boxes))[reachable], boxes[reachable], atol=0.01, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("anchor", "target"),
    [
        ([0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]),  # a padded proposal
        ([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]),  # a padded ground-truth box
        ([5.0, 5.0, 5.0, 9.0], [1.0, 2.0, 3.0, 4.0]),
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_boxes_without_area_encode_to_finite_numbers_with_finite_gradients(
    anchor: list[float], target: list[float]
) -> None:
    anchors = torch.tensor([anchor], requires_grad=True)
    boxes = torch.tensor([target], requires_grad=True)
    deltas = encode(anchors, boxes)
    no_width = (anchor[0] == anchor[2]) or (target[0] == target[2])
    assert deltas.isfinite().all()
    assert not no_width or deltas[0, 0] == deltas[0, 2] == 0
    deltas.square().sum().backward()
    assert anchors.grad is not None
    assert boxes.grad is not None
    assert anchors.grad.isfinite().all()
    assert boxes.grad.isfinite().all()


def test_codes_are_differentiable() -> None:
    anchors = (random_boxes(4, 3) + torch.tensor([0, 0, 9, 9])).double().requires_grad_()
    boxes = (random_boxes(5, 3) + torch.tensor([0, 0, 9, 9])).double().requires_grad_()
    deltas = (torch.randn(3, 4, generator=torch.Generator().manual_seed(6)) / 4).double()
    assert torch.autograd.gradcheck(encode, (anchors, boxes))
    assert torch.autograd.gradcheck(decode, (anchors, deltas.requires_grad_()))


def test_one_box_decodes_with_the_deltas_of_every_class() -> None:
    rois = random_boxes(7, 2, 5)
    deltas = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(8))
    boxes = decode(rois[:, :, None], deltas)
    assert boxes.shape == (2, 5, 3, 4)
    for label in range(3):
        assert_close(boxes[:, :, label], decode(rois, deltas[:, :, label]))
