"""Greedy suppression by stretches against torchvision's operator on all candidates."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from rcnn.kernels import nms_cpu as greedy
from rcnn.kernels.nms_cpu import Candidates, nms_topk


def _boxes(kind: str, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    centres = torch.rand(count, 2, generator=generator) * 100
    sides = 5 + 20 * torch.rand(count, 2, generator=generator)
    if kind == "of one size":
        sides = torch.full_like(sides, 12.0)
    if kind == "apart":
        at = torch.arange(count)
        centres, sides = torch.stack([at % 30, at // 30], dim=1) * 10.0, torch.full_like(sides, 8.0)
    if kind == "in one place":
        centres, sides = 50 + centres / 100, 40 + sides / 100
    if kind == "with duplicates":
        centres, sides = (centres / 8).round() * 8, (sides / 8).round() * 8
    if kind == "without area":
        sides[::2, 0] = 0
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


KINDS = ["any", "of one size", "apart", "in one place", "with duplicates", "without area"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [1, 40, 600])
@pytest.mark.parametrize("threshold", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("few", [1, 10, 10**6])
def test_stretches_keep_what_all_candidates_at_once_keep(
    monkeypatch: pytest.MonkeyPatch, kind: str, limit: int, threshold: float, few: int
) -> None:
    """Whatever is compared pair by pair (all: few = 10^6), and whatever with neighbours only."""
    monkeypatch.setattr(greedy, "STRETCH", 50)
    monkeypatch.setattr(greedy, "FEW", few)
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
