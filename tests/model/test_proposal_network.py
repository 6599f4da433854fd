"""The RPN alone is the first half of Faster R-CNN; what every system does is in test_build."""

import pytest
import torch
from torch.testing import assert_close

from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposal_network import ProposalNetwork
from tests.model.inputs import TINY, A, B, C, noise_of, targets_of


@pytest.fixture
def network() -> ProposalNetwork:
    torch.manual_seed(0)
    return ProposalNetwork(TINY)


@pytest.fixture
def whole(network: ProposalNetwork) -> FasterRCNN:
    """A Faster R-CNN with the same weights."""
    detector = FasterRCNN(TINY)
    rest = detector.load_state_dict(network.state_dict(), strict=False)
    assert all(name.startswith("roi_heads.") for name in rest.missing_keys)
    assert not rest.unexpected_keys
    return detector


def test_it_has_no_roi_heads(network: ProposalNetwork) -> None:
    assert {name.split(".")[0] for name in network.state_dict()} == {"backbone", "rpn"}
    assert not list(network.network.box_head.parameters())


def test_losses_and_proposals_are_those_of_faster_rcnn(
    network: ProposalNetwork, whole: FasterRCNN
) -> None:
    batch, targets = noise_of((64, 96), (50, 80)), targets_of([A, B], [C])
    ours, theirs = (
        detector.training_outputs(batch, targets, torch.Generator().manual_seed(3))
        for detector in (network, whole)
    )
    assert ours.losses.named.keys() == {"rpn_objectness", "rpn_boxes"}
    for name, loss in ours.losses.named.items():
        assert torch.equal(loss, theirs.losses.named[name]), name
    assert ours.anchors is not None
    assert theirs.anchors is not None
    assert torch.equal(ours.anchors, theirs.anchors)
    assert torch.equal(ours.anchor_samples.indices, theirs.anchor_samples.indices)
    assert ours.rois is None
    assert ours.proposals is None
    mine, its = (detector.eval().detect_batch(batch)[1] for detector in (network, whole))
    assert mine.valid.any(dim=1).all()
    for field in ("boxes", "scores", "valid"):
        assert torch.equal(getattr(mine, field), getattr(its, field))


def test_detections_are_the_proposals_in_pixels_of_each_picture(network: ProposalNetwork) -> None:
    network.eval()
    sizes = [(128, 192), (64, 96), (640, 200)]
    images = [torch.rand(3, *size) for size in sizes]
    found = network.detect(images)
    _, proposals = network.detect_batch(network.transform.batch(images))
    for i, (height, width) in enumerate(sizes):
        one, valid = found[i], proposals.valid[i]
        assert 0 < len(one) == valid.sum() <= 20  # after_nms_test
        assert set(one.names) == {"object"}
        assert torch.equal(one.scores, proposals.scores[i, valid])
        assert torch.equal(one.scores, one.scores.sort(descending=True).values)
        vertical, horizontal = network.transform.batch([images[i]]).scales[0].tolist()
        factors = torch.tensor([horizontal, vertical, horizontal, vertical])
        assert_close(one.boxes * factors, proposals.boxes[i, valid], atol=1e-3, rtol=1e-5)
        assert one.boxes.min() >= 0
        assert (one.boxes <= torch.tensor([width, height, width, height])).all()
