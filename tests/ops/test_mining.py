"""The hardest RoIs, by hand."""

import torch
from torch import Tensor

from rcnn.ops.sampling import hard_rois
from rcnn.structures import RoISamples


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


def test_losses_that_are_all_equal_fill_the_places() -> None:
    candidates = _candidates(_apart(6)[None], torch.zeros(1, 6).long())
    assert (hard_rois(candidates, torch.zeros(1, 6), 4).labels == 0).sum() == 4
