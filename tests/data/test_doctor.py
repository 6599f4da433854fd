"""Every check of a data set, on a set in which its fault was planted."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.doctor import Diagnosis, Finding, diagnose
from rcnn.data.errors import DataError, Problems
from rcnn.model.anchors import AnchorSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import AnchorSampling
from rcnn.model.transform import ImageSettings
from rcnn.structures import GroundTruth

SIDE = 128
BOX = [[24.0, 24, 56, 56]]


class Pictures(DetectionDataset):
    """Pictures in memory, each with its boxes; a picture that is None cannot be decoded."""

    def __init__(
        self,
        pictures: Sequence[Tensor | None],
        boxes: Sequence[list[list[float]]],
        labels: Sequence[list[int]] | None = None,
        class_names: tuple[str, ...] = ("cell",),
    ) -> None:
        self.pictures, self.boxes = pictures, boxes
        self.labels = labels or [[1] * len(each) for each in boxes]
        self.class_names = class_names
        self.image_ids = [f"{number}" for number in range(len(pictures))]
        self.aspect_ratios = np.ones(len(pictures), dtype=np.float32)
        self.problems = Problems("skip")

    @property
    def sizes(self) -> np.ndarray:
        return np.full((len(self), 2), SIDE, dtype=np.int32)

    def ground_truth(self, index: int) -> GroundTruth:
        boxes = torch.tensor(self.boxes[index]).reshape(-1, 4)
        none = torch.zeros(len(boxes), dtype=torch.bool)
        labels = torch.tensor(self.labels[index], dtype=torch.int64)
        return GroundTruth(boxes, labels, none, none, (boxes[:, 2:] - boxes[:, :2]).prod(1))

    def __getitem__(self, index: int) -> Sample:
        picture = self.pictures[index]
        if picture is None:
            raise DataError("3.jpg: unreadable image")
        return Sample(picture, self.ground_truth(index), self.image_ids[index], (SIDE, SIDE))


def noise(seed: int) -> Tensor:
    """A picture of 4 x 4 patches, so that its thumbnail differs from any other's."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randint(0, 256, (3, 4, 4), generator=generator, dtype=torch.uint8)
    return patches.repeat_interleave(SIDE // 4, 1).repeat_interleave(SIDE // 4, 2)


def pictures(seeds: Sequence[int], boxes: list[list[float]] | None = None) -> Pictures:
    return Pictures([noise(seed) for seed in seeds], [boxes or BOX for _ in seeds])


def settings(names: tuple[str, ...] = ("cell",)) -> DetectorSettings:
    return DetectorSettings(
        names,
        images=ImageSettings(shorter_side=SIDE, longer_side=SIDE),
        anchors=AnchorSettings(scales=(2.0,), ratios=(1.0,)),
    )


def findings(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnosis.findings}


def diagnosed(**splits: Pictures) -> dict[str, Finding]:
    return findings(diagnose(splits, settings(next(iter(splits.values())).class_names)))


def test_sound_data_has_no_warning() -> None:
    diagnosis = diagnose({"train": pictures(range(20)), "val": pictures([20, 21])}, settings())
    assert {finding.check for finding in diagnosis.findings} == {"anchor-reach"}
    assert diagnosis.exit_status == 0
    assert diagnosis.fit is not None
    assert diagnosis.fit.reached == 1


def test_the_same_picture_in_two_splits_is_an_error() -> None:
    diagnosis = diagnose({"train": pictures([0, 1, 2]), "val": pictures([7, 1])}, settings())
    found = findings(diagnosis)["identical-in-two-splits"]
    assert found.severity == "error"
    assert found.files == ("train/1 = val/1",)
    assert diagnosis.exit_status == 2


def test_a_picture_compressed_once_more_is_nearly_the_same() -> None:
    copy = (noise(1).float() * 0.9 + torch.randn(3, SIDE, SIDE)).clamp(0, 255).to(torch.uint8)
    val = Pictures([copy], [BOX])
    found = diagnosed(train=pictures([0, 1, 2]), val=val)
    assert found["similar-in-two-splits"].files == ("train/1 = val/0",)
    assert "identical-in-two-splits" not in found


def test_a_picture_twice_in_a_split_and_pictures_of_one_colour_are_told_apart() -> None:
    plain = torch.full((3, SIDE, SIDE), 7, dtype=torch.uint8)
    other = torch.full((3, SIDE, SIDE), 200, dtype=torch.uint8)
    split = Pictures([noise(0), noise(0), plain, other], [BOX] * 4)
    found = diagnosed(train=split)
    assert found["identical-images"].files == ("train/0 = train/1",)
    assert "similar-images" not in found


def test_a_broken_picture_is_an_error_with_its_message() -> None:
    found = diagnosed(train=Pictures([noise(0), None], [BOX, BOX]))
    assert found["unreadable-image"].severity == "error"
    assert found["unreadable-image"].files == ("train/1",)
    assert "3.jpg" in found["unreadable-image"].message


def test_boxes_drawn_twice_and_boxes_of_two_classes_are_two_findings() -> None:
    twice = Pictures([noise(0), noise(1)], [BOX * 2, BOX * 2], [[1, 1], [1, 2]], ("cell", "cup"))
    found = diagnosed(train=twice)
    assert found["identical-boxes"].files == ("train/0",)
    assert found["box-of-two-classes"].files == ("train/1",)


@pytest.mark.parametrize(
    ("check", "box"),
    [
        ("tiny-objects", [10.0, 10, 12, 40]),
        ("huge-objects", [0.0, 0, 128, 127]),
        ("extreme-shapes", [0.0, 40, 120, 48]),
        ("below-one-cell", [10.0, 10, 20, 20]),
        ("below-min-size", [10.0, 10, 20, 60]),
    ],
)
def test_objects_of_an_unfit_size_are_found(check: str, box: list[float]) -> None:
    sound = diagnosed(train=pictures(range(20)))
    found = diagnosed(train=Pictures([noise(0)], [[*BOX, box]]))
    assert check not in sound
    assert check in found


def test_an_object_that_only_a_crossing_anchor_reaches_is_lost_to_the_border() -> None:
    split = pictures(range(20), [[0.0, 0, 24, 24]])
    rules = AnchorSampling(positive_iou=0.5, negative_iou=0.3)
    given = DetectorSettings(
        ("cell",),
        images=ImageSettings(shorter_side=SIDE, longer_side=SIDE),
        anchors=AnchorSettings(scales=(1.5,), ratios=(1.0,)),
        anchor_sampling=rules,
    )
    assert "lost-to-border" in findings(diagnose({"train": split}, given))


def test_classes_without_objects_rare_classes_and_odd_names_are_found() -> None:
    names = ("red cell", "Red_Cell", "__background__", "cup")
    split = Pictures([noise(n) for n in range(60)], [BOX] * 60, [[1]] * 60, names)
    found = diagnosed(train=split)
    assert "Red_Cell" in found["alike-class-names"].message
    assert "__background__" in found["background-class"].message
    assert "cup 0" in found["few-objects"].message
    assert "class-imbalance" in found


def test_images_without_objects_are_worth_knowing() -> None:
    found = diagnosed(train=Pictures([noise(0), noise(1)], [BOX, []]))
    assert found["empty-images"].severity == "info"
    assert found["empty-images"].files == ("train/1",)
    nothing = diagnose({"train": Pictures([noise(0)], [[]])}, settings())
    assert nothing.fit is None
    assert nothing.anchors is None
