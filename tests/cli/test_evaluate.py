"""rcnn evaluate, on a small folder in VOC layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rcnn.cli.main import main
from rcnn.data import VOCDataset
from rcnn.model.postprocess import DetectionSettings
from rcnn.training import DetectionModule
from rcnn.training.evaluate import evaluate

Save = Callable[..., Path]
GENEROUS = DetectionSettings(score=0.0, nms_iou=0.9)  # random weights find something


def test_figures_are_those_of_a_test_in_python(
    saved: Save, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = saved(detections=GENEROUS), tmp_path / "figures.json"
    words = ["evaluate", str(checkpoint), "voc", str(voc), "--split", "test"]
    assert main([*words, "--workers", "0", "--json", str(out)]) == 0

    module = DetectionModule.load_from_checkpoint(checkpoint)
    dataset = VOCDataset(voc, "test", class_names=module.class_names)
    expected = evaluate(module, dataset, workers=0)
    record = json.loads(out.read_text())
    assert expected.metrics["test/map_50"] > 0
    assert record["metrics"] == {
        tag: None if value != value else pytest.approx(value)
        for tag, value in expected.metrics.items()
    }
    assert (record["images"], record["split"]) == (4, "test")
    printed = capsys.readouterr().out
    assert f"{expected.metrics['test/map_50']:.3f}" in printed
    assert all(name in printed for name in ("circle", "square", "triangle", "proposal recall"))


@pytest.mark.parametrize("name", ["square", "[red]:dog:[/]"])
def test_a_detector_of_one_class_is_tested_and_its_name_is_no_markup(
    name: str, saved: Save, make_voc: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_voc(("square",))
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<name>square<", f"<name>{name}<"))
    words = ["voc", str(root), "--split", "test", "--workers", "0"]
    assert main(["evaluate", str(saved(names=(name,), detections=GENEROUS)), *words]) == 0
    assert name in capsys.readouterr().out


def test_labels_of_a_folder_are_those_of_the_detector(saved: Save, voc: Path) -> None:
    # Sorted by name, as the folder alone has them, the labels would differ.
    checkpoint = saved(names=("triangle", "square", "circle"))
    words = ["evaluate", str(checkpoint), "voc", str(voc), "--split", "test", "--workers", "0"]
    assert main(words) == 0


def test_data_of_other_classes_is_a_mistake(
    saved: Save, voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved(names=("cat", "dog", "hen"))
    assert main(["evaluate", str(checkpoint), "voc", str(voc), "--split", "test"]) == 2
    assert "cat, dog, hen" in capsys.readouterr().err


def test_a_detector_without_rpn_needs_the_proposals_of_the_data(
    saved: Save, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved(system="fast_rcnn")
    data = ["voc", str(voc), "--split", "test"]
    assert main(["evaluate", str(checkpoint), *data]) == 2
    assert "--proposals FILE" in capsys.readouterr().err
    boxes = [
        {"image_id": str(image), "bbox": [8 * image, 0, 32, 32], "score": 1} for image in range(4)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    imported = ["propose", "import-json", str(tmp_path / "boxes.json"), *data]
    assert main([*imported, "--out", str(tmp_path)]) == 0
    file = next(tmp_path.glob("test.*"))
    assert main(["evaluate", str(checkpoint), *data, "--proposals", str(file)]) == 0
