"""rcnn evaluate, on a small folder in VOC layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rcnn.cli.main import main
from rcnn.data import ShapesDataset, VOCDataset
from rcnn.data.stored import ProposalWriter
from rcnn.model.postprocess import DetectionSettings
from rcnn.training import DetectionModule
from rcnn.training.evaluate import evaluate

Save = Callable[..., Path]
GENEROUS = DetectionSettings(score=0.0, nms_iou=0.9)  # so that chance finds something


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
    assert record["images"] == 4
    printed = capsys.readouterr().out
    assert f"{expected.metrics['test/map_50']:.3f}" in printed
    assert all(name in printed for name in ("circle", "square", "triangle", "proposal recall"))


def test_labels_of_a_folder_are_those_of_the_detector(saved: Save, voc: Path) -> None:
    # Sorted by name, as the folder alone would have them, the labels would be others.
    checkpoint = saved(names=("triangle", "square", "circle"))
    words = ["evaluate", str(checkpoint), "voc", str(voc), "--split", "test", "--workers", "0"]
    assert main(words) == 0


def test_data_of_other_classes_is_told_in_one_line(
    saved: Save, voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved(names=("cat", "dog", "hen"))
    assert main(["evaluate", str(checkpoint), "voc", str(voc), "--split", "test"]) == 2
    assert "The classes are cat, dog, hen" in capsys.readouterr().err


def test_a_system_without_proposals_of_its_own_needs_those_of_the_data(
    saved: Save, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved(system="fast_rcnn")
    words = ["evaluate", str(checkpoint), "voc", str(voc), "--split", "test", "--workers", "0"]
    assert main(words) == 2
    assert "give --proposals FILE" in capsys.readouterr().err
    dataset, path = VOCDataset(voc, "test", ShapesDataset(1).class_names), tmp_path / "x.proposals"
    with ProposalWriter(path, dataset, "corners") as writer:
        for image_id in dataset.image_ids:
            boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0], [16.0, 16.0, 64.0, 64.0]])
            writer.add(image_id, boxes, torch.tensor([1.0, 0.5]))
        writer.finish()
    assert main([*words, "--proposals", str(path)]) == 0
