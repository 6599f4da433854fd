"""Suppression in chunks and overlaps among neighbours, against all pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import nms

from rcnn.kernels import nms_cpu
from rcnn.kernels.nms_cpu import Candidates, any_iou_above, nms_topk
from rcnn.ops.boxes import iou


def _boxes(kind: str, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    centres = torch.rand(count, 2, generator=generator) * 100
    sides = 5 + 20 * torch.rand(count, 2, generator=generator)
    if kind == "of one size":
        sides = torch.full_like(sides, 12.0)
    if kind == "apart":
        at = torch.arange(count)
        centres, sides = torch.stack([at % 30, at // 30], dim=1) * 10.0, torch.full_like(sides, 8.0)
    if kind == "on each other":
        centres, sides = 50 + centres / 100, 40 + sides / 100
    if kind == "with duplicates":
        centres, sides = (centres / 8).round() * 8, (sides / 8).round() * 8
    if kind == "without area":
        sides[::2, 0] = 0
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


KINDS = ["any", "of one size", "apart", "on each other", "with duplicates", "without area"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [1, 40, 600])
@pytest.mark.parametrize("threshold", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("few", [1, 10, 10**6])
def test_chunks_keep_what_all_candidates_at_once_keep(
    monkeypatch: pytest.MonkeyPatch, kind: str, limit: int, threshold: float, few: int
) -> None:
    """However many are compared pair by pair (all: few = 10^6), and the others with neighbours."""
    monkeypatch.setattr(nms_cpu, "CHUNK", 50)
    monkeypatch.setattr(nms_cpu, "FEW_KEPT", few)
    boxes = _boxes(kind, 600)
    candidates = Candidates(boxes, torch.zeros(600).long(), boxes.double())
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))[:500]
    expected = order[nms(boxes[order].double(), torch.arange(500, 0, -1).double(), threshold)]
    kept = nms_topk(candidates, order, threshold, limit)
    assert kept.tolist() == expected[:limit].tolist()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_hardly_any_candidates(count: int) -> None:
    boxes = _boxes("apart", 3)
    candidates = Candidates(boxes, torch.zeros(3).long(), boxes.double())
    order = torch.arange(count)
    assert nms_topk(candidates, order, 0.7, 5).tolist() == order.tolist()


def _candidates(boxes: Tensor, groups: Tensor) -> Candidates:
    precise = boxes.double()
    return Candidates(boxes, groups, precise + groups[:, None] * 1000)


def _check(boxes: Tensor, groups: Tensor, threshold: float, some: Tensor, others: Tensor) -> None:
    """Compare what is found among neighbours with the IoU of all pairs."""
    candidates = _candidates(boxes, groups)
    found = any_iou_above(candidates, some, others, threshold)
    boxes = candidates.offset_boxes
    expected = (iou(boxes[some], boxes[others]) > threshold).any(dim=1)
    assert found.tolist() == expected.tolist()


@given(
    some=st.sampled_from([1, 3, 64, 150]),
    others=st.sampled_from([1, 3, 700]),
    groups=st.sampled_from([1, 3]),
    step=st.sampled_from([1 / 64, 4]),  # coarse coordinates: duplicates, zero areas, equal IoUs
    threshold=st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=150, derandomize=True)
def test_neighbours_are_all_that_counts(
    some: int,
    others: int,
    groups: int,
    step: float,
    threshold: float,
    dtype: torch.dtype,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(some + others, 2, 2, generator=generator).sort(dim=-2).values * 64
    boxes = ((corners / step).round() * step).flatten(-2).to(dtype)
    group = torch.randint(groups, (some + others,), generator=generator)
    indices = torch.randperm(some + others, generator=generator)
    _check(boxes, group, threshold, indices[:some], indices[some:])


@pytest.mark.parametrize("line", ["row", "column", "centre"])
def test_boxes_on_any_line_are_found(line: str) -> None:
    at, apart = torch.arange(300).float(), torch.zeros(300)
    if line == "centre":
        sides = 1.01**at
        boxes = torch.stack([-sides, -sides, sides, sides], dim=1)
    else:
        x, y = (at, apart) if line == "row" else (apart, at)
        boxes = torch.stack([x, y, x + 10, y + 10], dim=1)
    groups = torch.zeros(300).long()
    for threshold in (0.5, 0.9):
        _check(boxes, groups, threshold, torch.arange(0, 300, 2), torch.arange(1, 300, 7))


def test_windows_that_are_cut_do_not_lose_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nms_cpu, "MAX_PAIRS", 640)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(400, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 20], dim=1)
    _check(boxes, torch.zeros(400).long(), 0.6, torch.arange(200), torch.arange(200, 400))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_what_single_precision_cannot_tell_is_decided_in_double(threshold: float) -> None:
    height = round(10 * threshold)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, height]])
    boxes = boxes + torch.tensor([1.0, 2.0, 1.0, 2.0])
    candidates = _candidates(boxes, torch.zeros(2).long())
    pair = torch.tensor([0]), torch.tensor([1])
    assert not any_iou_above(candidates, *pair, threshold).any()
    assert any_iou_above(candidates, *pair, threshold - 1e-12).all()
