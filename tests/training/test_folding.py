"""The normalisation of box targets inside the weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import rcnn
from rcnn.data import ShapesDataset, collate
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.structures import ImageBatch, Proposals
from rcnn.training import DetectionModule
from rcnn.training.module import fold_deltas

MEANS = ((0.1, -0.2, 0.3, 0.0), (0.0, 0.05, -0.1, 0.2), (-0.3, 0.0, 0.0, 0.1))
STDS = ((0.1, 0.2, 0.3, 0.4), (0.05, 0.1, 0.2, 0.2), (0.5, 0.4, 0.3, 0.2))
PER_CLASS = (DeltaSettings(class_means=MEANS, class_stds=STDS), BoxPredictorSettings())
AGNOSTIC = (DeltaSettings(mean=MEANS[0], std=STDS[0]), BoxPredictorSettings(class_agnostic=True))
UNFOLDED = DeltaSettings(mean=(0.0, 0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0, 1.0))


def _module(
    settings: DetectorSettings, parts: tuple[DeltaSettings, BoxPredictorSettings], system: str
) -> DetectionModule:
    """Return a detector that finds much, with boxes that have moved far."""
    torch.manual_seed(0)
    deltas, head = parts
    module = DetectionModule(replace(settings, deltas=deltas, head=head), system=system)
    boxes = module.detector.get_submodule("regions.head.boxes")
    nn.init.normal_(boxes.weight, std=0.1)
    nn.init.normal_(boxes.bias, std=0.5)
    return module.eval()


@pytest.fixture
def batch() -> ImageBatch:
    images = ShapesDataset(2, size=64)
    boxes = torch.tensor([[8.0, 8.0, 40.0, 30.0], [20.0, 10.0, 60.0, 62.0]])
    samples = [replace(images[index], proposals=boxes) for index in range(2)]
    return collate(samples, 32).images


@pytest.mark.parametrize("parts", [PER_CLASS, AGNOSTIC], ids=["class-specific", "class-agnostic"])
@pytest.mark.parametrize("system", ["faster_rcnn", "fast_rcnn"])
def test_a_folded_module_detects_the_same_without_statistics(
    system: str,
    parts: tuple[DeltaSettings, BoxPredictorSettings],
    settings: DetectorSettings,
    batch: ImageBatch,
) -> None:
    module = _module(settings, parts, system).double()  # so that only the arithmetic counts
    batch = replace(batch, pixels=batch.pixels.double() / 255)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    folded = fold_deltas(module)
    assert folded.settings.deltas == UNFOLDED
    found, expected = (one.detector.detect_batch(batch)[0] for one in (folded, module))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs) > 0
        assert_close(ours.boxes, theirs.boxes, atol=64 * 1e-12, rtol=0)  # pixels of 64
        assert_close(ours.scores, theirs.scores, atol=1e-12, rtol=0)
        assert torch.equal(ours.labels, theirs.labels)
    # The module itself, and whatever was trained on, is as it was.
    assert module.settings.deltas == parts[0]
    assert_close(dict(module.state_dict()), before, atol=0, rtol=0)


def test_each_class_has_its_own_statistics_in_its_rows(settings: DetectorSettings) -> None:
    module = _module(settings, PER_CLASS, "fast_rcnn")
    old, new = (
        one.detector.get_submodule("regions.head.boxes") for one in (module, fold_deltas(module))
    )
    rows = slice(8, 12)  # of class 2, after background and class 1
    std, mean = torch.tensor(STDS[1]), torch.tensor(MEANS[1])
    assert_close(new.weight[rows], old.weight[rows] * std[:, None])
    assert_close(new.bias[rows], old.bias[rows] * std + mean)


def test_without_a_box_output_there_is_nothing_to_fold(settings: DetectorSettings) -> None:
    scores_only = replace(settings, box_predictor=BoxPredictorSettings(box_regression=False))
    for module in (
        DetectionModule(settings, system="rpn"),
        DetectionModule(scores_only, system="fast_rcnn"),
    ):
        assert fold_deltas(module) is module


def test_load_folds_and_load_from_checkpoint_does_not(
    settings: DetectorSettings, tmp_path: Path
) -> None:
    module = _module(settings, PER_CLASS, "faster_rcnn")
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    path = tmp_path / "trained.ckpt"
    torch.save(checkpoint, path)
    picture = ShapesDataset(1, size=64)[0].image
    ready, raw = rcnn.load(path), DetectionModule.load_from_checkpoint(path)
    assert (ready.settings.deltas, raw.settings.deltas) == (UNFOLDED, PER_CLASS[0])
    assert not ready.training
    assert_close(ready.predict(picture).boxes, raw.predict(picture).boxes, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_proposals(count: int, settings: DetectorSettings, batch: ImageBatch) -> None:
    folded = fold_deltas(_module(settings, PER_CLASS, "fast_rcnn"))
    boxes = torch.tensor([8.0, 8.0, 40.0, 30.0]).expand(2, count, 4)
    valid = torch.ones(2, count, dtype=torch.bool)
    given = replace(batch, proposals=Proposals(boxes, valid.float(), valid))
    found, _ = folded.detector.detect_batch(given)
    assert [len(one) > 0 for one in found] == [count > 0] * 2
