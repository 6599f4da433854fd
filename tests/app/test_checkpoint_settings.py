"""A checkpoint is tested with its own settings, but for what the command line may change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from rcnn.app import run
from rcnn.app.checkpoint_settings import settle_for_test
from rcnn.app.config import Config, parse
from rcnn.app.overrides import read_overrides
from rcnn.model.backbones import resolve
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError
from rcnn.training import DetectionModule
from rcnn.training.compression import compress
from rcnn.training.module import save

Compose = Callable[..., dict[str, Any]]

TRAINED = (
    *("backbone=resnet18", "backbone.box_head=two_mlp", "backbone.hidden=8", "anchors.scales=[2,4]"),
    *("thresholds.roi_samples=16", "thresholds.detection_score=0.2", "model.losses.rpn_box_weight=3"),
)
"""The words with which the checkpoint was trained."""


@pytest.fixture
def checkpoint(composed: Compose, tmp_path: Path) -> Path:
    """A detector as :data:`TRAINED` says, which has learned nothing."""
    config = parse(composed(*TRAINED))
    backbone, _ = resolve(config.detector["backbone"])
    module = DetectionModule(config.settings(("cat", "dog"), backbone))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    path = tmp_path / "some.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    return path


Settle = Callable[..., tuple[Config, list[str]]]


@pytest.fixture
def settle(composed: Compose, checkpoint: Path) -> Settle:
    """Settles the config of a test of the checkpoint with some words."""

    def function(*words: str) -> tuple[Config, list[str]]:
        asked = composed(*words, "task=test", f"ckpt_path={checkpoint}")
        plain, notes = settle_for_test(asked, read_overrides(words))
        return parse(plain), notes

    return function


def settings(config: Config) -> DetectorSettings:
    return config.settings(("cat", "dog"), config.detector["backbone"])


def trained(checkpoint: Path) -> DetectorSettings:
    return DetectionModule.load_from_checkpoint(checkpoint).settings


@pytest.mark.parametrize(
    "words",
    [
        (),
        TRAINED,
        ("backbone=resnet18", "model=faster_rcnn", "pooling=roi_align", "backbone.weights=auto"),
        ("experiment=voc07_vgg16", "optimizer.lr=3", "seed=4"),  # says nothing of the detector
    ],
    ids=" ".join,
)
def test_a_checkpoint_brings_all_its_settings_along(
    words: tuple[str, ...], settle: Settle, checkpoint: Path
) -> None:
    config, notes = settle(*words)
    assert settings(config) == trained(checkpoint)
    assert config.system == "faster_rcnn"
    assert notes == []


def test_what_concerns_detection_is_put_on_top_and_told(settle: Settle, checkpoint: Path) -> None:
    config, notes = settle(
        "thresholds={proposal_after_nms_test:7,proposal_nms_iou:1.0}",
        "thresholds.detection_score=0.2",
        "images.test_scales=[100,160]",
        "pooling.canonical_size=60",
        "+model.warp.chunk=3",
    )
    changed, own = settings(config), trained(checkpoint)
    assert (changed.proposals.after_nms_test, changed.proposals.nms_iou) == (7, 1.0)
    assert changed.images.test_scales == (100, 160)
    assert changed.pooling.canonical_size == 60
    assert changed.warp.chunk == 3
    assert changed.proposals.before_nms_test == own.proposals.before_nms_test
    assert changed.anchors == own.anchors
    after = own.proposals.after_nms_test
    assert sorted(notes) == [
        "Tested with images.test_scales=[100,160]; the checkpoint has null.",
        "Tested with model.warp.chunk=3; the checkpoint has 128.",
        "Tested with pooling.canonical_size=60; the checkpoint has 224.0.",
        f"Tested with thresholds.proposal_after_nms_test=7; the checkpoint has {after}.",
        "Tested with thresholds.proposal_nms_iou=1.0; the checkpoint has 0.7.",
    ]


def test_whole_layers_can_be_truncated_also_where_the_default_backbone_has_none(
    settle: Settle, checkpoint: Path
) -> None:
    config, notes = settle("backbone.ranks=[4,0]")  # of the checkpoint's box head; resnet18 has its own
    assert settings(config).backbone.ranks == (4, 0)
    assert notes == ["Tested with backbone.ranks=[4,0]; the checkpoint has null."]
    whole = DetectionModule.load_from_checkpoint(checkpoint).state_dict()
    thin = run._load(config).state_dict()
    key = "detector.roi_heads.box_head.fc6"
    first, second = thin[f"{key}.first.weight"], thin[f"{key}.second.weight"]
    assert first.shape[0] == second.shape[1] == 4
    lost = torch.linalg.svdvals(whole[f"{key}.weight"].double())[4:].norm()  # Eckart and Young
    error = (whole[f"{key}.weight"].double() - second.double() @ first.double()).norm()
    assert float(error) == pytest.approx(float(lost), rel=1e-5)
    same = set(whole) & set(thin)
    assert set(whole) - same == {f"{key}.weight", f"{key}.bias"}
    assert all(torch.equal(whole[name], thin[name]) for name in same)


@pytest.mark.parametrize("wanted", ["null", "[2,2]"])
def test_truncated_layers_are_neither_whole_again_nor_truncated_twice(
    wanted: str, settle: Settle, checkpoint: Path
) -> None:
    save(compress(DetectionModule.load_from_checkpoint(checkpoint), (4, 3)), checkpoint)
    assert settings(settle()[0]).backbone.ranks == (4, 3)
    with pytest.raises(SettingsError, match=r"backbone\.ranks=\S+ \(the checkpoint has \[4,3\]\)"):
        settle(f"backbone.ranks={wanted}")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("anchors.scales=[8]", r"anchors\.scales=\[8\] \(the checkpoint has \[2(\.0)?,4(\.0)?\]\)"),
        ("anchors=paper", r"anchors\.scales="),
        ("backbone=vgg16", r"backbone\.name=vgg16 \(the checkpoint has resnet18\)"),
        ("images.shorter_side=150", r"images\.shorter_side=150"),
        ("thresholds.roi_samples=64", r"thresholds\.roi_samples=64 \(the checkpoint has 16\)"),
        ("thresholds.proposal_after_nms_train=9", r"thresholds\.proposal_after_nms_train=9"),
        ("thresholds=torchvision", r"thresholds\.roi_samples=512"),
        ("model=rpn", r"model\.system=rpn \(the checkpoint has faster_rcnn\)"),
        ("model.box_predictor.class_agnostic=true", r"class_agnostic=true \(the checkpoint has false\)"),
    ],
)
def test_what_only_a_training_can_change_is_refused_by_name(
    word: str, told: str, settle: Settle
) -> None:
    with pytest.raises(SettingsError, match=f"task=test this is not possible: .*{told}") as caught:
        settle(word, "thresholds.proposal_score=0.1")
    message = str(caught.value)
    assert "thresholds.proposal_score=" not in message
    assert "Only what concerns detection can be changed: thresholds.proposal_before_nms_test" in (
        message
    )


def test_the_config_of_a_test_rebuilds_the_detector(settle: Settle, checkpoint: Path) -> None:
    config, _ = settle("thresholds.detection_per_image=5")
    module = DetectionModule(settings(config), system=config.system)
    module.load_state_dict(DetectionModule.load_from_checkpoint(checkpoint).state_dict())
    assert module.settings.detections.per_image == 5
    assert all(torch.isfinite(p).all() for p in module.parameters())
