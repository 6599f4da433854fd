"""Whether box targets are normalised by fixed numbers or by measured ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcnn.app.build import build_data, build_module
from rcnn.app.config import parse
from rcnn.data.proposal_writer import ProposalWriter
from rcnn.model.settings import DeltaSettings
from rcnn.ops.boxes import clip
from rcnn.settings import SettingsError

Compose = Callable[..., dict[str, Any]]


@pytest.fixture
def plain(composed: Compose, tmp_path: Path) -> dict[str, Any]:
    """Fast R-CNN on 40 images; the proposals are the objects, moved right by 1 to 3 pixels."""
    given = f"proposals.folder={tmp_path}"
    plain = composed("model=fast_rcnn", "data.train=40", "backbone.weights=null", given)
    dataset = build_data(parse(composed("data.train=40"))).dataset("train")
    with ProposalWriter(tmp_path / "train.safetensors", dataset, "by hand") as writer:
        for index, image_id in enumerate(dataset.image_ids):
            boxes = dataset.ground_truth(index).boxes
            moved = boxes + boxes.new_tensor([1.0, 1.0, 3.0, 2.0]) * (1 + index % 2)
            size = moved.new_tensor(dataset.sizes[index].tolist())
            writer.add(image_id, clip(moved[None], size[None])[0])
        writer.finish()
    return plain


def test_empirical_statistics_enter_the_detectors_settings(plain: dict[str, Any]) -> None:
    plain["model"]["delta_statistics"] = "empirical"
    plain["augment"]["flip"] = 0.5
    config = parse(plain)
    data = build_data(config)
    module = build_module(config, data)
    deltas = module.settings.deltas
    assert deltas.class_means is not None
    assert deltas.class_stds is not None
    for mean, std in zip(deltas.class_means, deltas.class_stds, strict=True):
        assert mean[0] == 0
        assert mean[2] < 0  # proposals are wider than the objects
        assert 0 < min(std) < max(std) < 0.1
    assert build_module(config, data).settings == module.settings  # as every process finds it


def test_fixed_statistics_are_the_default(plain: dict[str, Any]) -> None:
    config = parse(plain)
    module = build_module(config, build_data(config))
    assert module.settings.deltas == DeltaSettings()


@pytest.mark.parametrize("model", ["faster_rcnn", "rpn"])
def test_what_makes_its_own_proposals_has_none_to_measure(model: str, composed: Compose) -> None:
    plain = composed(f"model={model}", "model.delta_statistics=empirical")
    with pytest.raises(SettingsError, match=rf"model.delta_statistics='empirical'.*model={model}"):
        parse(plain)


def test_data_without_stored_proposals_is_refused(plain: dict[str, Any]) -> None:
    plain["model"]["delta_statistics"] = "empirical"
    plain["data"] = {
        "_target_": "rcnn.training.DetectionDataModule",
        "source": {"_target_": "rcnn.data.ShapesSource"},
    }
    config = parse(plain)
    with pytest.raises(SettingsError, match=r"DetectionDataModule is no .*ProposedDataset"):
        build_module(config, build_data(config))
