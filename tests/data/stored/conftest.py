"""Small data sets with known sizes, and files of their proposals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from rcnn.data import DetectionDataset, Problems, Sample
from rcnn.data.stored import ProposalWriter
from rcnn.structures import GroundTruth

Sizes = Mapping[str, tuple[int, int]]
Boxes = Mapping[str, Sequence[Sequence[float]]]

SIZES = {"b": (40, 60), "a": (30, 30), "c": (50, 20)}
BOXES = {
    "b": [[0, 0, 60, 40], [10, 5, 20, 25], [45, 30, 55, 39]],
    "a": [[1, 2, 3, 4.5]],
    "c": [],
}


class Blank(DetectionDataset):
    """Black images of given sizes without objects."""

    def __init__(self, sizes: Sizes, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.image_ids = list(sizes)
        self._sizes = list(sizes.values())
        self.aspect_ratios = np.array([w / h for h, w in self._sizes], dtype=np.float32)
        self.problems = Problems()

    @property
    def sizes(self) -> np.ndarray:
        return np.array(self._sizes, dtype=np.int32).reshape(-1, 2)

    def ground_truth(self, index: int) -> GroundTruth:  # noqa: ARG002
        none = torch.zeros(0, dtype=torch.bool)
        return GroundTruth(
            torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), none, none, torch.zeros(0)
        )

    def __getitem__(self, index: int) -> Sample:
        image = torch.zeros(3, *self._sizes[index], dtype=torch.uint8)
        return Sample(image, self.ground_truth(index), self.image_ids[index], self._sizes[index])


@pytest.fixture
def make_dataset() -> Callable[..., DetectionDataset]:
    """A data set of images of given (height, width): by default a, b and c."""

    def make(sizes: Sizes = SIZES, class_names: Sequence[str] = ("cat", "dog")) -> DetectionDataset:
        return Blank(sizes, class_names)

    return make


@pytest.fixture
def dataset(make_dataset: Callable[..., DetectionDataset]) -> DetectionDataset:
    """Images b of 40 x 60, a of 30 x 30 and c of 50 x 20 (height x width)."""
    return make_dataset()


@pytest.fixture
def boxes() -> Boxes:
    """Three proposals in b, one in a, none in c."""
    return BOXES


@pytest.fixture
def stored_file(tmp_path: Path, dataset: DetectionDataset) -> Path:
    """The file of these proposals."""
    with ProposalWriter(tmp_path / "some.proposals", dataset, "by hand") as writer:
        for image_id, corners in BOXES.items():
            writer.add(image_id, torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))
        return writer.finish()


@pytest.fixture
def raw_array() -> Callable[[Path, str], np.ndarray]:
    """An array of a file, writable, by the recipe in the documentation of the format."""

    def array(path: Path, name: str) -> np.ndarray:
        raw = np.memmap(path, np.uint8, mode="r+")
        _, length = raw[8:16].view("<u4")
        header = json.loads(raw[24 : 24 + length].tobytes())
        start = -(-(24 + int(length)) // 64) * 64
        entry = header["arrays"][name]
        count = math.prod(entry["shape"])
        data = np.frombuffer(raw, entry["dtype"], count, start + entry["offset"])
        return data.reshape(entry["shape"])

    return array
