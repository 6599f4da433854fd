"""Labels and box targets of sampled anchors and RoIs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from rcnn.model.anchors import AnchorGrid, AnchorSettings
from rcnn.model.targets import AnchorSampling, RoISampling, label_rois, sample_anchors, sample_rois
from rcnn.ops.boxes import inside, iou
from rcnn.ops.deltas import encode
from rcnn.structures import ImageBatch, Proposals, RoISamples, Targets
from tests.model.inputs import batch_of, proposals_of, targets_of
from tests.ops.inputs import random_boxes

A = (10.0, 10.0, 50.0, 40.0, 1)
B = (30.0, 50.0, 90.0, 95.0, 2)
C = (60.0, 5.0, 95.0, 30.0, 3)


@pytest.fixture(scope="module")
def anchors() -> Tensor:
    """864 anchors over 96 x 128 pixels."""
    grid = AnchorGrid(AnchorSettings(scales=(2.0, 4.0, 8.0)), strides=[8])
    boxes: Tensor = grid([(12, 16)], (96, 128))
    return boxes[: 12 * 16 * 9]


def _all_labels(
    anchors: Tensor, targets: Targets, batch: ImageBatch, **changes: Any
) -> tuple[Tensor, Tensor]:
    """Labels and deltas of every anchor: a sample so large that nothing is left to chance."""
    settings = AnchorSampling(samples=len(anchors), positive_fraction=1.0, **changes)
    sample = sample_anchors(anchors, targets, batch, settings)
    labels = torch.full((len(sample.labels), len(anchors)), -1)
    deltas = torch.zeros(len(sample.labels), len(anchors), 4)
    for i in range(len(labels)):
        used = sample.labels[i] >= 0
        labels[i, sample.indices[i, used]] = sample.labels[i, used]
        deltas[i, sample.indices[i, used]] = sample.deltas[i, used]
    return labels, deltas


class TestAnchors:
    def test_seed_001_golden_values(self) -> None:
        """Re-computed independently; its order is ours: y, x, scale, ratio."""
        anchors = AnchorGrid(AnchorSettings(), strides=[16])([(50, 50)], (800, 800))
        assert len(anchors) == 22_500
        first = anchors[3]  # the second scale's first ratio
        assert_close(first[3] - first[1], torch.tensor(2 * 90.509668))
        assert_close(anchors[0, 3] - anchors[0, 1], torch.tensor(90.509668))
        assert_close(anchors[0, 2] - anchors[0, 0], torch.tensor(181.019336))
        batch = batch_of((800, 800))
        within = inside(anchors, batch.sizes)[0]
        assert within.sum() == 8_940

        # The document writes (y1, x1, y2, x2).
        targets = targets_of([(30.0, 20.0, 500.0, 400.0, 6), (400.0, 300.0, 600.0, 500.0, 8)])
        overlaps = iou(targets.boxes[0], anchors[within])
        best = torch.tensor([0.68130493, 0.61035156])
        assert_close(overlaps.amax(dim=1), best, atol=1e-6, rtol=0.0)

        labels, _ = _all_labels(anchors, targets, batch)
        assert (labels[0, ~within] == -1).all()
        positions = (labels[0, within] == 1).nonzero().squeeze(1)
        assert positions.tolist() == [
            *(2264, 2271, 4097, 4105, 4113, 4121, 4371, 4379, 4387, 4395),
            *(4645, 4653, 4661, 4669, 4919, 4927, 4935, 4943),
        ]
        assert (overlaps >= 0.7).sum() == 0  # all 18 are the best of their box
        assert (labels == 0).sum() == 7_690
        sample = sample_anchors(anchors, targets, batch, AnchorSampling())
        assert (sample.labels == 1).sum() == 18
        assert (sample.labels == 0).sum() == 256 - 18

    @pytest.mark.parametrize("seed", range(4))
    def test_labels_and_deltas_equal_torchvision(self, anchors: Tensor, seed: int) -> None:
        boxes = random_boxes(seed, 2, 3) * 0.9 + torch.tensor([0.0, 0.0, 8.0, 8.0])
        flags = torch.zeros(2, 3).bool()
        targets = Targets(boxes, torch.ones(2, 3).long(), flags, flags)
        oracle = RegionProposalNetwork(
            *(AnchorGenerator(), torch.nn.Identity()), *(0.7, 0.3, 256, 0.5), *({}, {}, 0.7)
        )
        expected, matched = oracle.assign_targets_to_anchors(
            [anchors, anchors], [{"boxes": image} for image in boxes]
        )
        labels, deltas = _all_labels(
            anchors, targets, batch_of((96, 128), (96, 128)), skip_border_anchors=False
        )
        for i in range(2):
            assert torch.equal(labels[i].float(), expected[i])
            positive = labels[i] == 1
            assert positive.any()
            codes = oracle.box_coder.encode_single(matched[i], anchors)
            assert_close(deltas[i, positive], codes[positive])

    def test_labels_by_hand(self) -> None:
        anchors = torch.tensor(
            [
                [10.0, 10.0, 50.0, 40.0],  # the object itself
                [10.0, 10.0, 50.0, 34.0],  # IoU 0.8
                [10.0, 10.0, 50.0, 25.0],  # IoU 0.5
                [10.0, 10.0, 50.0, 19.0],  # IoU 0.3, not below
                [10.0, 10.0, 50.0, 18.0],  # IoU 0.27
                [60.0, 60.0, 70.0, 70.0],  # elsewhere
                [-5.0, 60.0, 9.0, 70.0],  # across the border
            ]
        )
        batch = batch_of((100, 100))
        labels, deltas = _all_labels(anchors, targets_of([A]), batch)
        assert labels.tolist() == [[1, 1, -1, -1, 0, 0, -1]]
        assert deltas[0, 0].abs().max() == 0
        assert_close(deltas[0, 1], torch.tensor([0.0, 3 / 24, 0.0, torch.tensor(30 / 24).log()]))
        labels, _ = _all_labels(anchors, targets_of([A]), batch, skip_border_anchors=False)
        assert labels[0, 6] == 0

    def test_the_best_anchors_of_a_box_are_positive_ties_included(self) -> None:
        anchors = torch.tensor(
            [[10.0, 10.0, 30.0, 25.0], [30.0, 25.0, 50.0, 40.0], [30.0, 25.2, 50.0, 40.0]]
        )
        batch, targets = batch_of((100, 100)), targets_of([A])
        # Seed document 003: and those within 0.01 of the best.
        for margin, third in ((0.0, 0), (0.003, 0), (0.01, 1)):
            labels, _ = _all_labels(anchors, targets, batch, low_quality_margin=margin)
            assert labels.tolist() == [[1, 1, third]]

    def test_only_inside_anchors_compete_for_the_best(self) -> None:
        anchors = torch.tensor([[-1.0, 0.0, 20.0, 20.0], [0.0, 0.0, 10.0, 10.0]])
        targets, batch = targets_of([(0.0, 0.0, 20.0, 20.0, 1)]), batch_of((50, 50))
        assert _all_labels(anchors, targets, batch)[0].tolist() == [[-1, 1]]
        outside_too = _all_labels(anchors, targets, batch, skip_border_anchors=False)[0]
        assert outside_too.tolist() == [[1, 0]]

    def test_an_anchor_must_lie_inside_its_own_image(self, anchors: Tensor) -> None:
        batch = batch_of((96, 128), (60, 64))  # the second one is padded
        labels, _ = _all_labels(anchors, targets_of([], []), batch)
        assert torch.equal(labels[1] == 0, inside(anchors, batch.sizes)[1])
        assert (labels[1] == 0).sum() < (labels[0] == 0).sum()

    def test_image_without_objects_is_ordinary(self, anchors: Tensor) -> None:
        batch = batch_of((96, 128), (96, 128))
        for targets in (targets_of([], []), targets_of([], [], padding=2)):
            labels, deltas = _all_labels(anchors, targets, batch, skip_border_anchors=False)
            assert (labels == 0).all()
            assert deltas.isfinite().all()
            sample = sample_anchors(anchors, targets, batch, AnchorSampling())
            assert (sample.labels == 0).all()
            assert sample.deltas.isfinite().all()

    def test_difficult_objects_are_never_targets(self, anchors: Tensor) -> None:
        batch = batch_of((96, 128))
        with_difficult = _all_labels(anchors, targets_of([A, B, C], difficult=[(0, 1)]), batch)
        without = _all_labels(anchors, targets_of([A, C]), batch)
        assert torch.equal(with_difficult[0], without[0])
        assert torch.equal(with_difficult[1][without[0] == 1], without[1][without[0] == 1])
        only_difficult = targets_of([A], difficult=[(0, 0)])
        assert (_all_labels(anchors, only_difficult, batch)[0] == 1).sum() == 0

    def test_anchors_in_a_crowd_region_are_ignored(self, anchors: Tensor) -> None:
        batch = batch_of((96, 128))
        region = (50.0, 0.0, 128.0, 96.0, 1)
        plain, _ = _all_labels(anchors, targets_of([A]), batch)
        crowded, _ = _all_labels(anchors, targets_of([A, region], crowd=[(0, 1)]), batch)
        x1, x2 = anchors[:, 0], anchors[:, 2]
        in_region = (x2 - x1.clamp(min=50.0)) / (x2 - x1) >= 0.5
        assert (crowded[0, in_region] != 0).all()
        assert torch.equal(crowded[0, ~in_region], plain[0, ~in_region])
        assert (plain[0, in_region] == 0).any()
        assert torch.equal(crowded == 1, plain == 1)  # a region is no object

    @pytest.mark.parametrize("images", [[[A]], [[A, B, C]], [[], [A, B, C]]])
    def test_256_anchors_of_each_image_at_most_half_of_them_positive(
        self, anchors: Tensor, images: list[Any]
    ) -> None:
        batch = batch_of(*[(96, 128)] * len(images))
        # at IoU 0.2 there are plenty of positives
        loose = AnchorSampling(positive_iou=0.2, negative_iou=0.2, samples=64)
        sample = sample_anchors(anchors, targets_of(*images), batch, loose)
        for i, image in enumerate(images):
            assert (sample.labels[i] == 1).sum() == (32 if image else 0)
            assert (sample.labels[i] == 0).sum() == (32 if image else 64)
        quarter = replace(loose, positive_fraction=0.25)
        sample = sample_anchors(anchors, targets_of(*images), batch, quarter)
        assert (sample.labels[-1] == 1).sum() == 16

    def test_too_few_anchors_leave_slots_unused(self) -> None:
        anchors = torch.tensor([[10.0, 10.0, 50.0, 40.0], [60.0, 60.0, 70.0, 70.0]])
        sample = sample_anchors(anchors, targets_of([A]), batch_of((100, 100)), AnchorSampling())
        assert sample.labels[0].tolist() == [1, 0] + [-1] * 254
        assert sample.indices[0, :2].tolist() == [0, 1]

    def test_a_sample_holds_the_anchors_and_their_matches(self, anchors: Tensor) -> None:
        targets, batch = targets_of([A, B], []), batch_of((96, 128), (96, 128))
        sample = sample_anchors(anchors, targets, batch, AnchorSampling(positive_iou=0.5))
        assert torch.equal(sample.boxes, anchors[sample.indices])
        assert torch.equal(sample.deltas, encode(sample.boxes, sample.matched_boxes))
        matched = sample.matched_boxes[sample.labels == 1].tolist()
        assert {tuple(box) for box in matched} == {A[:4], B[:4]}


def _rois(
    proposals: Proposals, targets: Targets, settings: RoISampling, seed: int = 0
) -> RoISamples:
    return sample_rois(proposals, targets, settings, torch.Generator().manual_seed(seed))


class TestRoIs:
    def test_128_rois_a_minibatch_are_shared_by_its_images(self) -> None:
        per_image = RoISampling(samples_per="image")
        for images, each in [(1, 128), (2, 64), (3, 42), (200, 1)]:
            assert RoISampling().rois_per_image(images) == each
            assert per_image.rois_per_image(images) == 128
        proposals, targets = proposals_of(random_boxes(0, 2, 600)), targets_of([A, B, C], [A])
        assert _rois(proposals, targets, RoISampling()).labels.shape == (2, 64)
        assert _rois(proposals, targets, per_image).labels.shape == (2, 128)

    def test_at_most_a_quarter_is_foreground_in_every_image(self) -> None:
        near = torch.tensor(A[:4]) + random_boxes(1, 1, 100, extent=3.0) - 1.5
        proposals = proposals_of(torch.cat([near, random_boxes(2, 1, 300)], 1).expand(2, -1, -1))
        targets = targets_of([A, B, C], [])
        rois = _rois(proposals, targets, RoISampling())
        assert (rois.labels[0] > 0).sum() == 16
        assert (rois.labels[0] == 0).sum() == 48
        assert (rois.labels[1] == 0).sum() == 64  # the other image's quota is not taken over
        half = _rois(proposals, targets, RoISampling(foreground_fraction=0.5))
        assert (half.labels[0] > 0).sum() == 32

    def test_labels_and_deltas_by_hand(self) -> None:
        boxes = [
            [10.0, 10.0, 50.0, 34.0],  # IoU 0.8 with A
            [30.0, 50.0, 90.0, 72.5],  # IoU exactly 0.5 with B
            [10.0, 10.0, 50.0, 22.0],  # IoU 0.4 with A
            [0.0, 60.0, 20.0, 80.0],  # IoU 0
        ]
        proposals = proposals_of(torch.tensor([boxes]))
        settings = RoISampling(samples=4, foreground_fraction=1.0, append_gt=False)
        rois = _rois(proposals, targets_of([A, B]), settings)
        found = {tuple(box): k for k, box in enumerate(rois.boxes[0].tolist())}
        order = [found[tuple(box)] for box in proposals.boxes[0].tolist()]
        assert rois.labels[0, order].tolist() == [1, 2, 0, 0]
        assert rois.matched_boxes[0, order[:3]].tolist() == [list(A[:4]), list(B[:4]), list(A[:4])]
        log = torch.log(torch.tensor([30 / 24, 2.0])).tolist()
        expected = torch.tensor([[0.0, 3 / 24, 0.0, log[0]], [0.0, 0.5, 0.0, log[1]]])
        assert_close(rois.deltas[0, order[:2]], expected)

    @pytest.mark.parametrize("seed", range(3))
    def test_labels_and_codes_equal_torchvision(self, seed: int) -> None:
        boxes, ground_truth = random_boxes(seed, 2, 200), random_boxes(50 + seed, 2, 3)
        flags, labels = torch.zeros(2, 3).bool(), torch.tensor([[1, 2, 3], [3, 3, 1]])
        settings = RoISampling(samples=203, samples_per="image", foreground_fraction=1.0)
        targets = Targets(ground_truth, labels, flags, flags)
        rois = sample_rois(proposals_of(boxes), targets, settings)
        weights = (1.0, 1.0, 1.0, 1.0)
        oracle = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, weights, 0.05, 0.5, 100)
        matched, expected = oracle.assign_targets_to_proposals(
            list(rois.boxes), list(ground_truth), list(labels)
        )
        for i in range(2):
            assert torch.equal(rois.labels[i], expected[i])
            foreground = expected[i] > 0
            assert foreground.sum() >= 3  # the ground truth itself at least
            codes = oracle.box_coder.encode_single(ground_truth[i][matched[i]], rois.boxes[i])
            assert_close(rois.deltas[i, foreground], codes[foreground], atol=1e-4, rtol=1e-5)

    def test_background_window_includes_its_lower_end_and_excludes_its_upper(self) -> None:
        """Seed document 001 loses the RoIs whose IoU is exactly 0."""
        ground_truth = (0.0, 0.0, 8.0, 8.0, 1)
        boxes = [
            [0.0, 0.0, 8.0, 4.0],  # IoU exactly 0.5
            [0.0, 0.0, 8.0, 2.0],  # 0.25
            [0.0, 0.0, 8.0, 1.0],  # 0.125
            [0.0, 0.0, 4.0, 1.0],  # 0.0625
            [20.0, 20.0, 30.0, 30.0],  # 0
        ]

        def background(**changes: Any) -> list[int]:
            settings = RoISampling(samples=5, append_gt=False, foreground_fraction=0.0, **changes)
            rois = _rois(proposals_of(torch.tensor([boxes])), targets_of([ground_truth]), settings)
            drawn = rois.boxes[0][rois.labels[0] == 0].tolist()
            return sorted(boxes.index(box) for box in drawn)

        assert background() == [1, 2, 3, 4]
        assert background(background_low=0.1) == [1, 2]
        assert background(background_low=0.125) == [1, 2]
        assert background(background_high=0.25) == [2, 3, 4]
        assert background(background_low=0.0625, background_high=0.25) == [2, 3]

    def test_between_background_and_foreground_nothing_is_drawn(self) -> None:
        boxes = torch.tensor([[[0.0, 0.0, 8.0, 4.0]]])  # IoU 0.5
        settings = RoISampling(samples=1, foreground_iou=0.6, background_high=0.4, append_gt=False)
        rois = _rois(proposals_of(boxes), targets_of([(0.0, 0.0, 8.0, 8.0, 1)]), settings)
        assert rois.labels.tolist() == [[-1]]

    @pytest.mark.parametrize("padding", [0, 2])
    def test_image_without_objects_is_all_background_whatever_the_window(
        self, padding: int
    ) -> None:
        targets = targets_of([], [], padding=padding)
        settings = RoISampling(background_low=0.1)
        rois = _rois(proposals_of(random_boxes(3, 2, 100)), targets, settings)
        assert (rois.labels == 0).all()
        assert rois.deltas.isfinite().all()
        # beside an image with objects too
        mixed = _rois(proposals_of(random_boxes(3, 2, 100)), targets_of([], [A, B, C]), settings)
        assert (mixed.labels[0] == 0).all()

    def test_ground_truth_is_appended_or_not(self) -> None:
        far = proposals_of(torch.tensor([[[0.0, 60.0, 20.0, 80.0]]]))
        targets = targets_of([A, B, C], difficult=[(0, 1)], crowd=[(0, 2)], padding=2)
        settings = RoISampling(samples=8, foreground_fraction=0.5)
        rois = _rois(far, targets, settings)
        assert sorted(rois.labels[0].tolist()) == [-1] * 4 + [0, 1]  # neither B, C nor padding
        assert rois.boxes[0, 0].tolist() == list(A[:4])
        rois = _rois(far, targets, replace(settings, append_gt=False))
        assert sorted(rois.labels[0].tolist()) == [0]

    def test_padding_among_the_proposals_is_never_drawn(self) -> None:
        boxes = random_boxes(4, 2, 50)
        valid = torch.zeros(2, 50).bool()
        valid[0, :20] = True
        boxes[~valid] = 0.0
        proposals = Proposals(boxes, torch.zeros(2, 50), valid)
        settings = RoISampling(samples=64, samples_per="image", append_gt=False)
        rois = _rois(proposals, targets_of([A], [B]), settings)
        assert (rois.labels[1] == -1).all()
        used = rois.labels[0] >= 0
        assert 0 < used.sum() <= 20
        assert (rois.boxes[0, used].amax(dim=1) > 0).all()
        # An empty place repeats what was drawn, and stays out of the losses.
        drawn = {tuple(box) for box in rois.boxes[0, used].tolist()}
        assert {tuple(box) for box in rois.boxes[0].tolist()} == drawn

    def test_no_proposals_at_all(self) -> None:
        none = Proposals(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).bool())
        rois = _rois(none, targets_of([], []), RoISampling(samples=8))
        assert rois.labels.tolist() == [[-1]] * 2
        rois = _rois(none, targets_of([], [A]), RoISampling(samples=8, append_gt=False))
        assert rois.labels.tolist() == [[-1]] * 2
        rois = _rois(none, targets_of([], [A]), RoISampling(samples=8))
        assert rois.labels.tolist() == [[-1], [1]]

    def test_too_little_background_is_left_short_or_repeated(self) -> None:
        far = torch.tensor([[[0.0, 60.0, 20.0, 80.0], [0.0, 70.0, 20.0, 90.0]]])
        targets, proposals = targets_of([A]), proposals_of(far)
        short = _rois(proposals, targets, RoISampling(samples=12))
        assert sorted(short.labels[0].tolist()) == [0, 0, 1]
        full = _rois(proposals, targets, RoISampling(samples=12, pad_with="background"))
        assert sorted(full.labels[0].tolist()) == [0] * 11 + [1]
        # The ground truth alone: it is repeated instead.
        settings = RoISampling(samples=12, pad_with="background", background_low=0.1)
        assert _rois(proposals, targets, settings).labels.tolist() == [[1] * 12]

    def test_rois_in_a_crowd_region_are_no_background(self) -> None:
        boxes = torch.tensor([[[60.0, 60.0, 70.0, 70.0], [0.0, 60.0, 20.0, 80.0]]])
        targets = targets_of([A, (50.0, 50.0, 100.0, 100.0, 2)], crowd=[(0, 1)])
        settings = RoISampling(samples=4, append_gt=False)
        rois = _rois(proposals_of(boxes), targets, settings)
        assert rois.boxes[0, rois.labels[0] == 0].tolist() == [[0.0, 60.0, 20.0, 80.0]]

    def test_difficult_objects_give_no_foreground(self) -> None:
        proposals = proposals_of(torch.tensor([[list(A[:4])]]))
        rois = _rois(proposals, targets_of([A, B], difficult=[(0, 0)]), RoISampling(samples=4))
        assert sorted(rois.labels[0].tolist()) == [-1, 0, 2]

    def test_gradients_flow_through_the_boxes_that_were_drawn(self) -> None:
        boxes = random_boxes(8, 1, 40).requires_grad_()
        settings = RoISampling(samples=10, append_gt=False)
        rois = _rois(proposals_of(boxes), targets_of([A]), settings)
        assert rois.deltas.requires_grad  # the target depends on where the RoI is, too
        assert not rois.matched_boxes.requires_grad
        rois.boxes.sum().backward()
        assert boxes.grad is not None
        assert (boxes.grad.sum(dim=-1) == 4).sum() == (rois.labels >= 0).sum()


class TestHardExampleCandidates:
    """What the hardest RoIs are chosen among (Shrivastava et al. 2016)."""

    HARD = RoISampling(ohem=True, background_low=0.1, foreground_fraction=0.0)

    def test_everything_with_a_label_is_a_candidate_and_background_starts_at_zero(self) -> None:
        boxes = [
            [10.0, 10.0, 50.0, 34.0],  # IoU 0.8 with A
            [10.0, 10.0, 50.0, 22.0],  # 0.4
            [10.0, 10.0, 50.0, 11.0],  # 0.03, below the window of random draws
            [0.0, 60.0, 20.0, 80.0],  # 0
            [70.0, 70.0, 80.0, 80.0],  # in the crowd
        ]
        proposals = proposals_of(torch.tensor([boxes]))
        crowd = (60.0, 60.0, 100.0, 100.0, 2)
        targets = targets_of([A, crowd], crowd=[(0, 1)])
        rois = label_rois(proposals, targets, self.HARD)
        assert rois.labels.tolist() == [[1, 0, 0, 0, -1, 1, -1]]  # then A itself and the crowd
        rois = label_rois(proposals, targets, replace(self.HARD, ohem=False))
        assert rois.labels.tolist() == [[1, 0, -1, -1, -1, 1, -1]]
        assert_close(rois.deltas, encode(rois.boxes, rois.matched_boxes))

    def test_at_most_so_many_proposals_and_all_objects_are_candidates(self) -> None:
        boxes, targets = random_boxes(0, 2, 30), targets_of([A, B, C], [])
        few = replace(self.HARD, ohem_candidates=10)
        rois = label_rois(proposals_of(boxes), targets, few)
        assert torch.equal(rois.boxes[:, :10], boxes[:, :10])  # the best
        assert rois.labels[0, 10:].tolist() == [1, 2, 3]
        assert rois.labels[1].tolist() == [0] * 10 + [-1] * 3
        without = replace(few, append_gt=False)
        rois = label_rois(proposals_of(boxes), targets, without)
        assert rois.labels.shape == (2, 10)
