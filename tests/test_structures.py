"""The tensors that travel between the stages."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch.testing import assert_close

from rcnn.structures import (
    Detections,
    GroundTruth,
    ImageBatch,
    Losses,
    Proposals,
    SampleCounts,
    Targets,
)


def _truth(count: int, first_label: int = 1) -> GroundTruth:
    boxes = torch.arange(4.0 * count).view(count, 4)
    flags = torch.zeros(count).bool()
    labels = torch.arange(first_label, first_label + count)
    return GroundTruth(boxes, labels, flags, flags, areas=torch.ones(count))


def _losses() -> Losses:
    counts = SampleCounts(torch.tensor(3), torch.tensor(5))
    return Losses(roi_classes=torch.tensor(1.0), roi_boxes=torch.tensor(2.0), counts=counts)


def _rpn_losses() -> Losses:
    counts = SampleCounts(anchors_positive=torch.tensor(7), anchors_negative=torch.tensor(9))
    return Losses(torch.tensor(4.0), torch.tensor(8.0), counts=counts)


def test_ground_truth_of_0_1_and_3_objects_is_padded_to_3() -> None:
    images = [_truth(0), _truth(1, 7), _truth(3)]
    assert [len(image) for image in images] == [0, 1, 3]
    targets = Targets.pad(images)
    assert targets.boxes.shape == (3, 3, 4)
    assert targets.labels.tolist() == [[0, 0, 0], [7, 0, 0], [1, 2, 3]]
    assert torch.equal(targets.boxes[2], _truth(3).boxes)
    assert not targets.boxes[0].any()
    assert not targets.boxes[1, 1:].any()
    assert targets.difficult.dtype == targets.crowd.dtype == torch.bool
    assert targets.is_target.tolist() == [[False] * 3, [True, False, False], [True] * 3]


def test_a_minibatch_without_any_object_has_no_places() -> None:
    targets = Targets.pad([_truth(0), _truth(0)])
    assert targets.boxes.shape == (2, 0, 4)
    assert targets.is_target.shape == (2, 0)


def test_difficult_and_crowd_objects_are_not_learned() -> None:
    targets = Targets(
        boxes=torch.zeros(1, 4, 4),
        labels=torch.tensor([[1, 2, 3, 0]]),
        difficult=torch.tensor([[False, True, False, False]]),
        crowd=torch.tensor([[False, False, True, False]]),
    )
    assert targets.is_target.tolist() == [[True, False, False, False]]


def test_flags_are_padded_with_their_boxes() -> None:
    one = _truth(2)
    hard, crowd = replace(one, difficult=~one.difficult), replace(one, crowd=~one.crowd)
    targets = Targets.pad([hard, crowd, _truth(3)])
    assert targets.difficult.tolist() == [[True, True, False], [False] * 3, [False] * 3]
    assert targets.crowd.tolist() == [[False] * 3, [True, True, False], [False] * 3]


def test_scales_are_vertical_then_horizontal() -> None:
    batch = ImageBatch(
        pixels=torch.zeros(1, 3, 64, 96, dtype=torch.uint8),
        sizes=torch.tensor([[60, 90]]),
        original_sizes=torch.tensor([[30, 180]]),
    )
    assert_close(batch.scales, torch.tensor([[2.0, 0.5]]))


def test_every_tensor_moves_and_the_rest_stays() -> None:
    found = Detections(torch.zeros(2, 4), torch.zeros(2), torch.ones(2).long(), ("cat",))
    moved = found.to("meta")
    assert {t.device.type for t in (moved.boxes, moved.scores, moved.labels)} == {"meta"}
    assert moved.class_names == ("cat",)
    assert found.boxes.device.type == "cpu"
    losses = _losses().to("meta")
    assert losses.roi_classes is not None
    assert losses.roi_classes.device.type == "meta"
    assert losses.rpn_boxes is None
    assert losses.counts.rois_foreground is not None
    assert losses.counts.rois_foreground.device.type == "meta"
    assert losses.counts.anchors_positive is None


def test_the_tensors_of_a_batch_cannot_be_exchanged_by_accident() -> None:
    with pytest.raises(FrozenInstanceError):
        _truth(1).boxes = torch.zeros(0, 4)  # type: ignore[misc]


def test_detections_have_names() -> None:
    labels = torch.tensor([2, 1, 2])
    found = Detections(torch.zeros(3, 4), torch.zeros(3), labels, ("cat", "dog"))
    assert len(found) == 3
    assert found.names == ["dog", "cat", "dog"]


def test_the_total_is_the_sum_of_the_terms_that_there_are() -> None:
    two = _losses()
    assert two.named.keys() == {"roi_classes", "roi_boxes"}
    assert two.total == 3
    a, b, c, d = (torch.tensor(float(k), requires_grad=True) for k in (1, 2, 4, 8))
    four = Losses(a, b, c, d)
    assert list(four.named) == ["rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes"]
    assert four.named["rpn_objectness"] == 1
    assert four.named["roi_classes"] == 4
    assert four.total == 15
    four.total.backward()
    assert four.roi_boxes is not None
    assert four.roi_boxes.grad == 1


def test_the_losses_of_two_stages_are_put_together() -> None:
    both = _rpn_losses() | _losses()
    assert {name: int(term) for name, term in both.named.items()} == {
        "rpn_objectness": 4,
        "rpn_boxes": 8,
        "roi_classes": 1,
        "roi_boxes": 2,
    }
    assert {name: int(count) for name, count in both.counts.named.items()} == {
        "rois_foreground": 3,
        "rois_background": 5,
        "anchors_positive": 7,
        "anchors_negative": 9,
    }
    assert (_losses() | _rpn_losses()).total == both.total == 15


def test_no_term_can_stand_in_both() -> None:
    with pytest.raises(TypeError, match="roi_classes"):
        _losses() | _losses()


def test_losses_without_counts_have_none() -> None:
    one = Losses(rpn_boxes=torch.tensor(3.0)) | _losses()
    assert set(one.counts.named) == {"rois_foreground", "rois_background"}
    assert one.total == 6


def test_0_1_and_3_proposals_are_padded_in_resized_pixels() -> None:
    three = torch.arange(12.0).view(3, 4)
    scales = torch.tensor([[2.0, 10.0], [3.0, 1.0], [1.0, 1.0]])  # vertical, horizontal
    proposals = Proposals.pad([three[:0], three[:1] + 1, three], scales)
    assert proposals.boxes.shape == (3, 3, 4)
    assert not proposals.boxes[0].any()
    assert proposals.boxes[1].tolist() == [[1, 6, 3, 12], [0] * 4, [0] * 4]
    assert torch.equal(proposals.boxes[2], three)
    assert proposals.valid.tolist() == [[False] * 3, [True, False, False], [True] * 3]
    assert torch.equal(proposals.scores, proposals.valid.float())


def test_the_proposals_of_a_batch_move_with_it() -> None:
    sizes = torch.tensor([[64, 96]])
    proposals = Proposals.pad([torch.ones(2, 4)], torch.ones(1, 2))
    batch = ImageBatch(torch.zeros(1, 3, 64, 96), sizes, sizes, proposals).to("meta")
    assert batch.proposals is not None
    assert batch.proposals.boxes.device.type == "meta"
    assert ImageBatch(torch.zeros(1, 3, 64, 96), sizes, sizes).to("meta").proposals is None
