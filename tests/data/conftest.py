"""Small data sets on disk, and samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.data import DetectionDataset, Problems, Sample
from rcnn.data.proposal_writer import ProposalWriter
from rcnn.structures import GroundTruth


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Write a picture of noise of (height, width); the suffix decides the format."""

    def write(file: Path, size: tuple[int, int] = (40, 60), **options: Any) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, **options)
        return file

    return write


@pytest.fixture
def voc_object() -> Callable[..., str]:
    """An <object> element."""

    def element(name: str, corners: Sequence[object], difficult: int | None = 0) -> str:
        names = ("xmin", "ymin", "xmax", "ymax")
        box = "".join(f"<{n}>{c}</{n}>" for n, c in zip(names, corners, strict=True))
        flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
        return f"<object><name>{name}</name>{flag}<bndbox>{box}</bndbox></object>"

    return element


@pytest.fixture
def write_voc(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Add an image of 40 x 60 with its annotation to a VOC folder and to its split ``train``."""

    def write(
        image_id: str = "a",
        objects: str = "",
        size: str = "<size><width>60</width><height>40</height></size>",
        split: str = "train",
        root: Path = tmp_path / "voc",
    ) -> Path:
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        write_image(root / "JPEGImages" / f"{image_id}.jpg")
        annotation = root / "Annotations" / f"{image_id}.xml"
        annotation.write_text(f"<annotation>{size}{objects}</annotation>")
        with (root / "ImageSets" / "Main" / f"{split}.txt").open("a") as listing:
            listing.write(f"{image_id}\n")
        return root

    return write


@pytest.fixture
def write_coco(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Write a COCO file; image 7 is 40 x 60 and lies in the folder ``images`` beside it."""
    image = {"id": 7, "file_name": "seven.jpg", "height": 40, "width": 60}

    def write(
        annotations: Sequence[object] = (),
        images: Sequence[object] = (image,),
        categories: Sequence[object] = ({"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}),
    ) -> Path:
        write_image(tmp_path / "images" / "seven.jpg")
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = tmp_path / "instances.json"
        file.write_text(json.dumps(content))
        return file

    return write


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """A sample of given (height, width) and boxes."""

    def make(
        size: tuple[int, int] = (40, 60),
        boxes: Sequence[Sequence[float]] = (),
        proposals: Sequence[Sequence[float]] | None = None,
        image_id: str = "a",
    ) -> Sample:
        corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        count = len(corners)
        pixels = np.random.default_rng(count).integers(0, 256, (3, *size), dtype=np.uint8)
        return Sample(
            image=torch.from_numpy(pixels),
            ground_truth=GroundTruth(
                boxes=corners,
                labels=torch.arange(1, count + 1),
                difficult=torch.arange(count) == 1,
                crowd=torch.arange(count) == 2,
                areas=(corners[:, 2:] - corners[:, :2]).prod(1),
            ),
            image_id=image_id,
            original_size=size,
            proposals=None
            if proposals is None
            else torch.tensor(proposals, dtype=torch.float32).reshape(-1, 4),
        )

    return make


class BlankDataset(DetectionDataset):
    """Black images of given (height, width) without objects."""

    def __init__(self, sizes: Mapping[str, tuple[int, int]], class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.image_ids = list(sizes)
        self.aspect_ratios = np.array([w / h for h, w in sizes.values()], dtype=np.float32)
        self.problems = Problems()
        self._sizes = list(sizes.values())

    @property
    def sizes(self) -> np.ndarray:
        return np.array(self._sizes, dtype=np.int32).reshape(-1, 2)

    def ground_truth(self, index: int) -> GroundTruth:  # noqa: ARG002
        none = torch.zeros(0, dtype=torch.bool)
        labels = torch.zeros(0, dtype=torch.int64)
        return GroundTruth(torch.zeros(0, 4), labels, none, none, torch.zeros(0))

    def __getitem__(self, index: int) -> Sample:
        image = torch.zeros(3, *self._sizes[index], dtype=torch.uint8)
        return Sample(image, self.ground_truth(index), self.image_ids[index], self._sizes[index])


@pytest.fixture
def make_blank() -> Callable[..., DetectionDataset]:
    """A data set of black images: by default b of 40 x 60, a of 30 x 30, c of 50 x 20."""

    def make(
        sizes: Mapping[str, tuple[int, int]] | None = None,
        class_names: Sequence[str] = ("cat", "dog"),
    ) -> DetectionDataset:
        return BlankDataset(sizes or {"b": (40, 60), "a": (30, 30), "c": (50, 20)}, class_names)

    return make


@pytest.fixture
def blank(make_blank: Callable[..., DetectionDataset]) -> DetectionDataset:
    """Images b of 40 x 60, a of 30 x 30 and c of 50 x 20 (height x width)."""
    return make_blank()


@pytest.fixture
def boxes() -> dict[str, torch.Tensor]:
    """Three proposals in b, one in a, none in c."""
    return {
        "b": torch.tensor([[0.0, 0, 60, 40], [10, 5, 20, 25], [45, 30, 55, 39]]),
        "a": torch.tensor([[1.0, 2, 3, 4.5]]),
        "c": torch.zeros(0, 4),
    }


@pytest.fixture
def stored_file(tmp_path: Path, blank: DetectionDataset, boxes: dict[str, torch.Tensor]) -> Path:
    """The file of these proposals."""
    with ProposalWriter(tmp_path / "some.safetensors", blank, "by hand") as writer:
        for image_id, corners in boxes.items():
            writer.add(image_id, corners)
        return writer.finish()
