"""The code blocks of docs/reuse.md, run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from rcnn.data import ShapesDataset
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageSettings
from rcnn.training import DetectionModule

PAGE = Path(__file__).parents[1] / "docs" / "reuse.md"
BLOCKS = re.findall(r"## ([^\n]+)\n.*?```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page takes for granted: a checkpoint, a picture, a folder in VOC layout."""
    monkeypatch.chdir(tmp_path)
    images = ShapesDataset(4, size=64)
    Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save("street.jpg")
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "other_data" / name).mkdir(parents=True)
    for number in range(4):
        write_voc(tmp_path / "other_data", f"{number}", images, number)
    for split in ("train", "val", "test"):
        path = tmp_path / "other_data" / "ImageSets" / "Main" / f"{split}.txt"
        path.write_text("0\n1\n2\n3\n")
    settings = DetectorSettings(
        images.class_names,
        images=ImageSettings(64, 64),
        backbone=BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None),
        anchors=AnchorSettings(scales=(1.0, 2.0)),
    )
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(DetectionModule(settings))
    trainer.save_checkpoint("best.ckpt", weights_only=True)
    return tmp_path


def write_voc(root: Path, name: str, images: ShapesDataset, index: int) -> None:
    """Write a synthetic picture with its annotation."""
    sample = images[index]
    pixels = sample.image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
    objects = "".join(
        f"<object><name>{images.class_names[label - 1]}</name><bndbox>"
        f"<xmin>{x1 + 1:.0f}</xmin><ymin>{y1 + 1:.0f}</ymin>"
        f"<xmax>{x2:.0f}</xmax><ymax>{y2:.0f}</ymax></bndbox></object>"
        for (x1, y1, x2, y2), label in zip(
            sample.ground_truth.boxes.tolist(), sample.ground_truth.labels.tolist(), strict=True
        )
    )
    size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
    text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
@pytest.mark.filterwarnings("ignore:.*is not set to.*")
def test_the_blocks_of_the_page_run_as_they_stand(title: str, code: str, folder: Path) -> None:
    if "Torchvision" in title:
        model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        torch.save(model.state_dict(), folder / "fasterrcnn.pth")
    names: dict[str, object] = {}
    exec(compile(code, title, "exec"), names)
    assert "module" in names
    if "Fine-tune" in title:
        assert len(code.strip().splitlines()) < 10
