"""An RPN proposes for a whole data set."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from rcnn.data import DataError, DataWarning, DetectionDataset, Sample, ShapesDataset
from rcnn.data.proposal_writer import ProposalWriter
from rcnn.data.proposals import ProposedDataset, StoredProposals
from rcnn.model.proposals import ProposalSettings
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import clip, scale
from rcnn.settings import SettingsError
from rcnn.training import DetectionModule
from rcnn.training.propose import propose_with

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture
def shapes() -> ShapesDataset:
    """Five pictures of 96 pixels, which the module's settings shrink to 64."""
    return ShapesDataset(5, size=96)


class Failing(ShapesDataset):
    """The picture number ``at`` is broken, or makes somebody press Ctrl-C."""

    at = 3
    error: BaseException = DataError("picture 3 is broken.")

    def __getitem__(self, index: int) -> Sample:
        if index == self.at:
            raise self.error
        return super().__getitem__(index)


def made(module: DetectionModule, dataset: DetectionDataset, path: Path, **changes: int) -> Path:
    return propose_with(module, dataset, path, **{"workers": 0, **changes})


@pytest.mark.parametrize("system", ["faster_rcnn", "rpn"])
def test_file_holds_what_the_module_proposes(
    settings: DetectorSettings, shapes: ShapesDataset, tmp_path: Path, system: str
) -> None:
    torch.manual_seed(0)
    module = DetectionModule(settings, system=system).eval()
    stored = StoredProposals(
        made(module, shapes, tmp_path / "x.safetensors", limit=50, batch_size=1)
    )
    alike = dataclasses.replace(settings, proposals=ProposalSettings(after_nms_test=50))
    other = DetectionModule(alike, system=system).eval()
    other.load_state_dict(module.state_dict())
    for index, image_id in enumerate(shapes.image_ids):
        batch = other.detector.transform.batch([shapes[index].image])
        _, proposals = other.detector.detect_batch(batch)
        kept = proposals.valid[0]
        expected = clip(scale(proposals.boxes, 1 / batch.scales), batch.original_sizes)[0, kept]
        assert 1 < len(expected) <= 50
        torch.testing.assert_close(stored.boxes(image_id), expected)
        torch.testing.assert_close(stored.scores(image_id), proposals.scores[0, kept])
    given = ProposedDataset(shapes, stored)[0].proposals
    assert given is not None
    assert len(given) == len(stored.boxes(shapes.image_ids[0]))


def test_limits_are_those_that_were_asked_for(
    module: DetectionModule, shapes: ShapesDataset, tmp_path: Path
) -> None:
    def counts(name: str, **limits: int) -> set[int]:
        stored = StoredProposals(made(module, shapes, tmp_path / name, **limits))
        return {len(stored.boxes(image_id)) for image_id in shapes.image_ids}

    assert counts("few", limit=3) == {3}
    assert max(counts("entering", before_nms=4)) <= 4
    assert min(counts("many")) > 4


def test_origin_differs_with_weights_settings_and_limits(
    module: DetectionModule, settings: DetectorSettings, shapes: ShapesDataset, tmp_path: Path
) -> None:
    def origin(name: str, module: DetectionModule, **limits: int) -> str:
        return StoredProposals(made(module, shapes, tmp_path / name, **limits)).header.origin

    first = origin("first", module)
    assert "RPN of faster_rcnn" in first
    assert origin("again", module) == first
    assert origin("limit", module, limit=7) != first
    stricter = dataclasses.replace(settings, proposals=ProposalSettings(nms_iou=0.5))
    same_weights = DetectionModule(stricter)
    same_weights.load_state_dict(module.state_dict())
    assert origin("settings", same_weights) != first
    with torch.no_grad():
        next(module.detector.rpn.parameters()).add_(1e-3)
    assert origin("weights", module) != first


@pytest.mark.parametrize("at", [0, 2, 3])
def test_interrupted_file_goes_on_as_with_any_number_of_workers(
    module: DetectionModule, shapes: ShapesDataset, tmp_path: Path, at: int
) -> None:
    whole = made(module, shapes, tmp_path / "whole", workers=2)
    path = tmp_path / "resumed"
    failing = Failing(5, size=96)
    failing.at, failing.error = at, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        made(module, failing, path)
    assert not path.exists()
    assert made(module, shapes, path).read_bytes() == whole.read_bytes()


def test_half_a_batch_that_was_finished_does_not_matter(
    module: DetectionModule,
    shapes: ShapesDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = made(module, shapes, tmp_path / "whole")
    add, left = ProposalWriter.add, iter([True, True, True])

    def interrupted(self: ProposalWriter, *values: Any) -> None:
        if not next(left, False):
            raise KeyboardInterrupt
        add(self, *values)

    with monkeypatch.context() as patch:
        patch.setattr(ProposalWriter, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(module, shapes, tmp_path / "resumed")
    assert made(module, shapes, tmp_path / "resumed").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (0, 2), (1, 2)])
def test_broken_picture_is_an_error_of_one_line_or_gets_no_proposals(
    module: DetectionModule, tmp_path: Path, workers: int, batch_size: int
) -> None:
    failing = Failing(5, size=96)
    options = {"workers": workers, "batch_size": batch_size}
    with pytest.raises(DataError, match=r"^picture 3 is broken\.$"):
        made(module, failing, tmp_path / "raised", **options)
    failing.problems.on_error = "skip"
    with pytest.warns(DataWarning, match="picture 3 is broken"):
        stored = StoredProposals(made(module, failing, tmp_path / "x", **options))
    assert [len(stored.boxes(i)) > 0 for i in failing.image_ids] == [True] * 3 + [False, True]
    assert stored.failed == {failing.image_ids[3]: "picture 3 is broken."}


def test_boxes_without_area_are_left_out(
    settings: DetectorSettings, shapes: ShapesDataset, tmp_path: Path
) -> None:
    anything = dataclasses.replace(settings, proposals=ProposalSettings(nms_iou=1.0, min_size=0.0))
    module = DetectionModule(anything)
    with torch.no_grad():
        module.detector.rpn.head.bbox_pred.weight.zero_()
        # Each anchor moves to the left by twice its width: many of them out of the image.
        module.detector.rpn.head.bbox_pred.bias.view(-1, 4)[:, 0] = -2.0
    batch = module.detector.transform.batch([shapes[0].image])
    _, proposals = module.eval().detector.detect_batch(batch)
    empty = proposals.valid & (proposals.boxes[..., 0] == proposals.boxes[..., 2])
    assert 0 < empty.sum() < proposals.valid.sum()
    stored = StoredProposals(made(module, shapes, tmp_path / "x"))
    expected = int(proposals.valid.sum() - empty.sum())
    assert len(stored.boxes(shapes.image_ids[0])) == expected


@pytest.mark.parametrize("training", [False, True])
def test_mode_of_the_module_is_left_as_it_was(
    module: DetectionModule, shapes: ShapesDataset, tmp_path: Path, training: bool
) -> None:
    module.train(training)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    made(module, shapes, tmp_path / "x")
    assert module.detector.training == training
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_detector_without_rpn_is_refused(
    settings: DetectorSettings, shapes: ShapesDataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"FastRCNN has no RPN.*selective search"):
        made(DetectionModule(settings, system="fast_rcnn"), shapes, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_impossible_requests_are_named(
    module: DetectionModule, shapes: ShapesDataset, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="limit=0"):
        made(module, shapes, tmp_path / "x", limit=0)
    with pytest.raises(SettingsError, match="before_nms_test=0"):
        made(module, shapes, tmp_path / "x", before_nms=0)
    with pytest.raises(SettingsError, match="batch_size=0"):
        made(module, shapes, tmp_path / "x", batch_size=0)
    (tmp_path / "there").touch()
    with pytest.raises(DataError, match="exists already"):
        made(module, shapes, tmp_path / "there")
