"""rcnn propose as people type it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw
from scipy.io import savemat

from rcnn.cli.main import main
from rcnn.data import ShapesSource, VOCDataset
from rcnn.data.proposal_writer import ProposalWriter
from rcnn.data.proposals import ProposedDataset, StoredProposals
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.transform import ImageSettings
from rcnn.training import DetectionModule

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

# Of pictures of 60 x 40 pixels, as in VOC: 1-based, inclusive.
OBJECTS = {"a": [(11, 6, 30, 25)], "b": [(1, 1, 20, 40), (41, 11, 60, 30)], "c": []}


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Three pictures with white squares, in the split ``some``."""
    root = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets" / "Main" / "some.txt").write_text("\n".join(OBJECTS))
    for image_id, corners in OBJECTS.items():
        picture = Image.new("RGB", (60, 40), (20, 60, 20))
        for x1, y1, x2, y2 in corners:
            ImageDraw.Draw(picture).rectangle((x1 - 1, y1 - 1, x2 - 1, y2 - 1), fill="white")
        picture.save(root / "JPEGImages" / f"{image_id}.png")
        objects = "".join(
            f"<object><name>dog</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for x1, y1, x2, y2 in corners
        )
        (root / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a checkpoint of a small detector of a system."""

    def write(system: str) -> Path:
        settings = DetectorSettings(
            ("cat", "dog"),
            images=ImageSettings(64, 64),
            backbone=BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None),
            anchors=AnchorSettings(scales=(1.0, 2.0)),
        )
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        trainer.strategy.connect(DetectionModule(settings, system=system))
        trainer.save_checkpoint(tmp_path / f"{system}.ckpt", weights_only=True)
        return tmp_path / f"{system}.ckpt"

    return write


def propose(*words: object) -> int:
    return main(["propose", *map(str, words)])


def test_selective_search_covers_drawn_squares(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "proposals"
    words = ("selective-search", "voc", voc, "--split", "some", "--limit", 50, "--out", out)
    assert propose(*words) == 0
    summary = capsys.readouterr().out.splitlines()[-1]
    assert "3 images, " in summary
    assert "recall 1.0000 at IoU 0.5" in summary
    assert summary.endswith(f"seconds per image; see {out / 'some.safetensors'}")
    stored = StoredProposals(out / "some.safetensors")
    assert "fast" in stored.header.origin
    assert "limit=50" in stored.header.origin
    ProposedDataset(VOCDataset(voc, "some"), stored)


def test_interrupted_search_says_how_to_go_on(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def words(name: str, workers: int) -> tuple[object, ...]:
        data = ("voc", voc, "--split", "some", "--workers", workers)
        return ("selective-search", *data, "--out", tmp_path / f"{name}.safetensors")

    assert propose(*words("whole", 1)) == 0
    add: Callable[..., None] = ProposalWriter.add
    left = iter([True])

    def interrupted(self: ProposalWriter, *values: object) -> None:
        if not next(left, False):
            raise KeyboardInterrupt
        add(self, *values)

    with monkeypatch.context() as patch:
        patch.setattr(ProposalWriter, "add", interrupted)
        assert propose(*words("resumed", 2)) == 130
    message = capsys.readouterr().err
    assert "resumed.safetensors.shards holds what is finished" in message
    assert "same command goes on" in message
    assert not (tmp_path / "resumed.safetensors").exists()
    assert propose(*words("resumed", 2)) == 0
    # An image's share of the time is not known of what an earlier command has begun.
    assert "seconds per image" not in capsys.readouterr().out
    whole, resumed = (tmp_path / f"{name}.safetensors" for name in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_interrupted_import_leaves_nothing(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: ProposalWriter, *values: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ProposalWriter, "add", interrupted)
    file, out = tmp_path / "boxes.json", tmp_path / "out"
    file.write_text("[]")
    words = ("import-json", file, "voc", voc, "--split", "some", "--absent-is-empty")
    assert propose(*words, "--out", out) == 130
    assert "Nothing was written" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("system", ["faster_rcnn", "rpn"])
def test_rpn_of_a_checkpoint_proposes_for_shapes(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    system: str,
) -> None:
    out = tmp_path / "out"
    words = ("rpn", checkpoint(system), "shapes", "--split", "val", "--workers", 0)
    assert propose(*words, "--limit", 30, "--out", out) == 0
    assert "20 images, 30.0 proposals per image, recall 0." in capsys.readouterr().out
    stored = StoredProposals(out / "val.safetensors")
    assert f"RPN of {system}" in stored.header.origin
    ProposedDataset(ShapesSource().dataset("val"), stored)


def test_summary_counts_what_an_import_covers(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (voc / "ImageSets" / "Main" / "empty.txt").write_text("c")
    # Of the three objects the second is met exactly, the third by a box of half its size.
    boxes = {"b": [[0, 0, 20, 40], [40, 10, 20, 10]], "c": [[0, 0, 9, 9]]}
    entries = [
        {"image_id": image_id, "bbox": box, "score": 0.5}
        for image_id, some in boxes.items()
        for box in some
    ]
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(entries))
    words = ("import-json", file, "voc", voc, "--split", "some", "--out", tmp_path / "out")
    assert propose(*words) == 2
    assert "1 of the data set's 3 images have no proposals: a" in capsys.readouterr().err
    assert propose(*words, "--absent-is-empty") == 0
    summary = capsys.readouterr().out
    assert "3 images, 1.0 proposals per image, recall 0.6667 at IoU 0.5, " in summary
    file.write_text("[]")
    empty = ("import-json", file, "voc", voc, "--split", "empty", "--absent-is-empty")
    assert propose(*empty, "--out", tmp_path / "out") == 0
    assert "1 images, 0.0 proposals per image, no objects" in capsys.readouterr().out


def test_mat_is_imported(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes, images = torch.empty(3, 1).numpy().astype(object), torch.empty(3, 1).numpy()
    images = images.astype(object)
    for row, (image_id, corners) in enumerate(OBJECTS.items()):
        boxes[row, 0] = torch.tensor(corners).reshape(-1, 4)[:, [1, 0, 3, 2]].double().numpy()
        images[row, 0] = image_id
    savemat(tmp_path / "boxes.mat", {"boxes": boxes, "images": images})
    words = ("import-mat", tmp_path / "boxes.mat", "voc", voc, "--split", "some")
    assert propose(*words, "--out", tmp_path / "train.safetensors") == 0
    assert "recall 1.0000" in capsys.readouterr().out
    stored = StoredProposals(tmp_path / "train.safetensors")
    assert stored.boxes("a").tolist() == [[10, 5, 30, 25]]


def test_class_names_and_bad_images_are_as_in_training(voc: Path, tmp_path: Path) -> None:
    (voc / "JPEGImages" / "b.png").unlink()
    file, out = tmp_path / "boxes.json", tmp_path / "x.safetensors"
    file.write_text("[]")
    words = ("import-json", file, "voc", voc, "--split", "some", "--absent-is-empty", "--out", out)
    assert propose(*words) == 2
    with pytest.warns(UserWarning, match="1 x missing image"):
        assert propose(*words, "--on-error", "skip", "--class-names", "cat", "dog") == 0
    stored = StoredProposals(out)
    assert list(stored.image_ids) == ["a", "c"]
    assert stored.header.class_names == ("cat", "dog")


def test_mistakes_are_told_in_one_line(
    voc: Path,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def told(*words: object) -> str:
        assert propose(*words) == 2
        return capsys.readouterr().err

    data = ("voc", voc, "--split", "some", "--out", tmp_path / "x.safetensors")
    assert "has no split 'same'" in told("selective-search", "voc", voc, "--split", "same")
    assert "there is no such checkpoint" in told("rpn", tmp_path / "none.ckpt", *data)
    assert "FastRCNN has no RPN" in told("rpn", checkpoint("fast_rcnn"), *data)
    assert "no challenge 'VOC2008'" in told(
        *("selective-search", "pascal", "VOC2008", tmp_path, "--split", "test")
    )
    (tmp_path / "x.safetensors").touch()
    assert "x.safetensors exists already" in told("selective-search", *data)
    data = ("voc", voc, "--split", "some", "--out", tmp_path / "y.safetensors")
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "pip install 'rcnn[proposals]'" in told("selective-search", *data)


def test_coco_names_a_file_after_its_annotations(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "7.png")
    content = {
        "images": [{"id": 7, "file_name": "7.png", "height": 40, "width": 60}],
        "annotations": [],
        "categories": [{"id": 1, "name": "dog"}],
    }
    file, boxes = tmp_path / "instances_some.json", tmp_path / "boxes.json"
    file.write_text(json.dumps(content))
    boxes.write_text(json.dumps([{"image_id": 7, "bbox": [1, 2, 3, 4], "score": 1}]))
    words = ("coco", file, "--images", tmp_path, "--out", tmp_path / "out")
    assert propose("import-json", boxes, *words) == 0
    stored = StoredProposals(tmp_path / "out" / "instances_some.safetensors")
    assert stored.boxes("7").tolist() == [[1, 2, 4, 6]]
