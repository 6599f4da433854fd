"""Checkpoints and data that take a moment."""

from collections.abc import Callable
from pathlib import Path

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
from rcnn.training.module import save

SHAPES = ("circle", "square", "triangle")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes the checkpoint of a detector with random weights."""

    def write(
        names: tuple[str, ...] = SHAPES,
        box_head: str = "linear",
        system: str = "faster_rcnn",
        detections: DetectionSettings | None = None,
    ) -> Path:
        torch.manual_seed(0)
        backbone = BackboneSettings(
            "resnet18", norm="batch", frozen_stages=0, weights=None, box_head=box_head, hidden=32
        )
        settings = DetectorSettings(
            names,
            images=ImageSettings(64, 64),
            backbone=backbone,
            anchors=AnchorSettings(scales=(1.0, 2.0)),
            detections=detections or DetectionSettings(),
        )
        path = tmp_path / "whole.ckpt"
        save(DetectionModule(settings, system=system), path)
        return path

    return write


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A folder in VOC layout with a split ``test`` of four pictures."""
    root, images = tmp_path / "voc", ShapesDataset(4, size=64)
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for number, sample in enumerate(images[index] for index in range(4)):
        pixels = sample.image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{number}.jpg")
        objects = "".join(
            f"<object><name>{images.class_names[label - 1]}</name><bndbox>"
            f"<xmin>{x1 + 1:.0f}</xmin><ymin>{y1 + 1:.0f}</ymin>"
            f"<xmax>{x2:.0f}</xmax><ymax>{y2:.0f}</ymax></bndbox></object>"
            for (x1, y1, x2, y2), label in zip(
                sample.ground_truth.boxes.tolist(), sample.ground_truth.labels.tolist(), strict=True
            )
        )
        size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
        text = f"<annotation><filename>{number}.jpg</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{number}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "test.txt").write_text("0\n1\n2\n3\n")
    return root
