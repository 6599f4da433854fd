"""The normalisation of box targets that a training set asks for."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rcnn.data import DetectionDataset, Problems, Sample
from rcnn.data.proposal_writer import ProposalWriter
from rcnn.data.proposals import ProposedDataset, StoredProposals
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.model.targets import RoISampling
from rcnn.ops.boxes import flip, iou
from rcnn.ops.deltas import encode
from rcnn.structures import GroundTruth
from rcnn.training import DetectionModule
from rcnn.training.checkpoints import save
from rcnn.training.statistics import measure_deltas

NAMES = ("circle", "square", "triangle")
WIDTH = 200
FIXED = ((0.0, 0.0, 0.0, 0.0), (0.1, 0.1, 0.2, 0.2))
OBJECT = (0.0, 0.0, 100.0, 100.0, 1)
LOW = (0.0, 0.0, 100.0, 80.0)  # IoU 0.8: ty = 10 / 80, th = log(100 / 80)
NARROW = (20.0, 0.0, 100.0, 100.0)  # IoU 0.8: tx = -10 / 80, tw = log(100 / 80)
FAR = (60.0, 60.0, 100.0, 100.0)  # IoU 0.16
LOG = math.log(100 / 80)

Objects = Sequence[tuple[float, float, float, float, int]]
Make = Callable[..., ProposedDataset]


class Annotated(DetectionDataset):
    """Square images of known objects that nobody may decode."""

    def __init__(self, ground_truths: Sequence[GroundTruth]) -> None:
        self.class_names = NAMES
        self.image_ids = [f"{index:03d}" for index in range(len(ground_truths))]
        self.aspect_ratios = np.ones(len(ground_truths), dtype=np.float32)
        self.problems = Problems()
        self.ground_truths = ground_truths

    @property
    def sizes(self) -> np.ndarray:
        return np.full((len(self), 2), WIDTH, dtype=np.int32)

    def ground_truth(self, index: int) -> GroundTruth:
        return self.ground_truths[index]

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("pixels are not needed")


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """``made((objects, proposals), ...)``: one pair for each image."""

    def make(
        *images: tuple[Objects, Sequence[Sequence[float]] | Tensor],
        difficult: bool = False,
        crowd: bool = False,
        limit: int | None = None,
    ) -> ProposedDataset:
        ground_truths = []
        for objects, _ in images:
            table = torch.tensor(objects, dtype=torch.float32).reshape(-1, 5)
            flags = torch.ones(len(table), dtype=torch.bool)
            ground_truths.append(
                GroundTruth(
                    table[:, :4],
                    table[:, 4].long(),
                    flags & difficult,
                    flags & crowd,
                    torch.ones(len(table)),
                )
            )
        dataset = Annotated(ground_truths)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        with ProposalWriter(path, dataset, "by hand") as writer:
            for image_id, (_, boxes) in zip(dataset.image_ids, images, strict=True):
                writer.add(image_id, torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
            writer.finish()
        return ProposedDataset(dataset, StoredProposals(path), limit)

    return make


@pytest.fixture
def settings(settings: DetectorSettings) -> DetectorSettings:
    sampling = RoISampling(append_gt=False)
    return replace(settings, roi_sampling=sampling, proposals=ProposalSettings(min_size=0.0))


def _row(deltas: DeltaSettings, label: int) -> tuple[Sequence[float], Sequence[float]]:
    assert deltas.class_means is not None
    assert deltas.class_stds is not None
    return deltas.class_means[label - 1], deltas.class_stds[label - 1]


@pytest.mark.filterwarnings("ignore:The training split has too few")
@pytest.mark.parametrize("append_gt", [False, True])
@pytest.mark.parametrize("flip", [0.0, 0.25, 0.5])
def test_two_foreground_proposals_worked_by_hand(
    append_gt: bool, flip: float, made: Make, settings: DetectorSettings
) -> None:
    settings = replace(settings, roi_sampling=RoISampling(append_gt=append_gt))
    deltas = measure_deltas(made(([OBJECT], [LOW, NARROW, FAR])), settings, flip)
    targets = np.array([[0, 0.125, 0, LOG], [-0.125, 0, LOG, 0], [0, 0, 0, 0]])
    targets = targets if append_gt else targets[:2]
    mean = targets.mean(axis=0) * [1 - 2 * flip, 1, 1, 1]  # mirroring moves that of x towards 0
    std = np.sqrt((targets**2).mean(axis=0) - mean**2)
    found_mean, found_std = _row(deltas, 1)
    assert found_mean == pytest.approx(mean)
    assert found_std == pytest.approx(std)
    assert (deltas.mean, deltas.std) == FIXED


def test_equals_the_released_formula_over_images_in_both_orientations(
    made: Make, settings: DetectorSettings, generator: torch.Generator
) -> None:
    images = []
    targets: list[list[Tensor]] = [[] for _ in NAMES]
    for count in (0, 1, 3, 5, 8):
        corners = 20 + 80 * torch.rand(count, 2, generator=generator)
        sides = 30 + 60 * torch.rand(count, 2, generator=generator)
        objects = torch.cat([corners, corners + sides], dim=1)
        labels = torch.arange(count) % 3 + 1
        noise = torch.rand(count, 60, 4, generator=generator) * 24 - 12
        boxes = (objects[:, None] + noise).flatten(0, 1).clamp(0, WIDTH)
        images.append((torch.cat([objects, labels[:, None]], dim=1).tolist(), boxes))
        for mirrored in (False, True):
            gt = flip(objects, WIDTH) if mirrored else objects
            rois = flip(boxes, WIDTH) if mirrored else boxes
            rois = torch.cat([gt, rois])  # as the released code merges the two
            if count:
                best, owner = iou(rois, gt).max(dim=1)
                for label in range(1, 4):
                    chosen = (best >= 0.5) & (labels[owner] == label)
                    found = encode(rois[chosen], gt[owner[chosen]])
                    targets[label - 1].append(found)
    settings = replace(settings, roi_sampling=RoISampling(append_gt=True))
    deltas = measure_deltas(made(*images), settings, flip=0.5)
    for label in range(1, 4):
        every = torch.cat(targets[label - 1]).double().numpy()
        assert len(every) > 100
        mean, std = _row(deltas, label)
        assert mean == pytest.approx(every.mean(axis=0), abs=1e-6)
        assert std == pytest.approx(every.std(axis=0), abs=1e-6)


def test_classes_that_cannot_tell_keep_the_fixed_numbers_and_are_named(
    made: Make, settings: DetectorSettings
) -> None:
    square = (100.0, 100.0, 200.0, 200.0, 2)
    lone = (100.0, 100.0, 200.0, 180.0)
    dataset = made(([OBJECT, square], [LOW, NARROW, lone]), ([], [LOW]), ([square], []))
    with pytest.warns(UserWarning, match="box targets of square, triangle: model.deltas"):
        deltas = measure_deltas(dataset, settings, flip=0.5)
    assert _row(deltas, 1) != FIXED
    assert _row(deltas, 2) == _row(deltas, 3) == FIXED


@pytest.mark.parametrize(
    ("objects", "proposals", "flags"),
    [
        ([], [], {}),
        ([OBJECT], [], {}),
        ([], [LOW, NARROW], {}),
        ([OBJECT], [LOW, NARROW], {"difficult": True}),
        ([OBJECT], [LOW, NARROW], {"crowd": True}),
    ],
)
def test_without_proposals_of_learned_objects_all_classes_keep_the_fixed_numbers(
    objects: Objects,
    proposals: Sequence[Sequence[float]],
    flags: dict[str, bool],
    made: Make,
    settings: DetectorSettings,
) -> None:
    with pytest.warns(UserWarning, match="circle, square, triangle"):
        deltas = measure_deltas(made((objects, proposals), **flags), settings, flip=0.5)
    assert [_row(deltas, label) for label in (1, 2, 3)] == [FIXED] * 3


@pytest.mark.filterwarnings("ignore:The training split has too few")
def test_only_proposals_that_training_sees_count(made: Make, settings: DetectorSettings) -> None:
    small = (0.0, 0.0, 10.0, 10.0, 1)
    images = ([small], [(0.0, 0.0, 10.0, 8.0), (2.0, 0.0, 10.0, 10.0)]), ([OBJECT], [LOW, NARROW])
    whole = measure_deltas(made(*images), settings, flip=0.0)
    alike = measure_deltas(made(images[1]), settings, flip=0.0)
    assert_close(whole.class_means, alike.class_means)  # deltas do not depend on the scale
    shifted = (([small], [(1.0, 0.0, 10.0, 9.0), (2.0, 0.0, 10.0, 10.0)]), images[1])
    large = replace(settings, proposals=ProposalSettings(min_size=16.0))
    assert measure_deltas(made(*shifted), large, flip=0.0) == alike
    assert measure_deltas(made(*shifted), settings, flip=0.0) != alike
    best = made(([OBJECT], [LOW, NARROW, (0.0, 10.0, 100.0, 100.0)]), limit=2)
    assert measure_deltas(best, settings, flip=0.0) == alike


def test_a_class_agnostic_head_gets_one_row_for_all(made: Make, settings: DetectorSettings) -> None:
    square = (0.0, 0.0, 100.0, 100.0, 2)
    settings = replace(settings, box_predictor=BoxPredictorSettings(class_agnostic=True))
    dataset = made(([OBJECT], [LOW]), ([square], [NARROW]))
    deltas = measure_deltas(dataset, settings, flip=0.0)
    assert deltas.mean == pytest.approx((-0.0625, 0.0625, LOG / 2, LOG / 2))
    assert deltas.std == pytest.approx((0.0625, 0.0625, LOG / 2, LOG / 2))
    assert replace(settings, deltas=deltas).deltas.class_means is None
    with pytest.warns(UserWarning, match="any class"):
        assert measure_deltas(made(([OBJECT], [FAR])), settings, flip=0.0) == DeltaSettings()


@pytest.mark.filterwarnings("ignore:The training split has too few")
def test_a_checkpoint_holds_the_measured_numbers(
    made: Make, settings: DetectorSettings, tmp_path: Path
) -> None:
    measured = measure_deltas(made(([OBJECT], [LOW, NARROW])), settings, flip=0.5)
    module = DetectionModule(replace(settings, deltas=measured), system="fast_rcnn")
    save(module, tmp_path / "measured.ckpt")
    loaded = DetectionModule.load_from_checkpoint(tmp_path / "measured.ckpt")
    assert loaded.settings.deltas == measured
