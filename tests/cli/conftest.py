"""Tiny checkpoints and a tiny data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from PIL import Image

from rcnn.data import ShapesDataset
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageSettings
from rcnn.training import DetectionModule
from rcnn.training.checkpoints import save

SHAPES = ("circle", "square", "triangle")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes the checkpoint of a detector with random weights."""

    def write(
        names: tuple[str, ...] = SHAPES,
        box_head: Literal["own", "two_mlp"] = "two_mlp",
        system: str = "faster_rcnn",
        detections: DetectionSettings | None = None,
    ) -> Path:
        torch.manual_seed(0)
        backbone = BackboneSettings(
            name="resnet18",
            norm="batch",
            frozen_stages=0,
            weights=None,
            box_head=box_head,
            hidden=32,
        )
        settings = DetectorSettings(
            class_names=names,
            images=ImageSettings(shorter_side=64, longer_side=64),
            backbone=backbone,
            anchors=AnchorSettings(scales=(1.0, 2.0)),
            detections=detections or DetectionSettings(),
        )
        path = tmp_path / "whole.ckpt"
        save(DetectionModule(settings, system=system), path)
        return path

    return write


@pytest.fixture
def make_voc(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder in VOC layout with a split ``test`` of four pictures."""

    def write(names: tuple[str, ...] = SHAPES) -> Path:
        root, images = tmp_path / "voc", ShapesDataset(4, size=64, class_names=names)
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / name).mkdir(parents=True)
        for number, sample in enumerate(images[index] for index in range(4)):
            pixels = sample.image.permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{number}.jpg")
            boxes, labels = sample.ground_truth.boxes.tolist(), sample.ground_truth.labels.tolist()
            objects = "".join(
                f"<object><name>{names[label - 1]}</name><bndbox>"
                f"<xmin>{x1 + 1:.0f}</xmin><ymin>{y1 + 1:.0f}</ymin>"
                f"<xmax>{x2:.0f}</xmax><ymax>{y2:.0f}</ymax></bndbox></object>"
                for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True)
            )
            size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
            text = f"<annotation><filename>{number}.jpg</filename>{size}{objects}</annotation>"
            (root / "Annotations" / f"{number}.xml").write_text(text)
        (root / "ImageSets" / "Main" / "test.txt").write_text("0\n1\n2\n3\n")
        return root

    return write


@pytest.fixture
def voc(make_voc: Callable[..., Path]) -> Path:
    """A folder in VOC layout with the three shapes."""
    return make_voc()
