"""Every file in conf/ composes and passes the door; mistakes do not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from rcnn.app.config import THRESHOLDS, parse, threshold_keys
from rcnn.model.backbones import SHIPPED
from rcnn.model.build import needs_proposals
from rcnn.model.speed import SpeedSettings
from rcnn.settings import SettingsError, to_plain

Compose = Callable[..., dict[str, Any]]
CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF
)


def overrides(choice: str) -> list[str]:
    """Return what a choice needs beside itself."""
    if choice in ("data=voc", "data=coco") or choice.startswith("experiment="):
        return [choice, "data.root=/somewhere", "proposals.folder=/somewhere"]
    group, _, name = choice.partition("=")
    if group.startswith("sweep/"):  # a row of that sweep
        return [group.replace("/", "="), f"+{choice}", "proposals.folder=/somewhere"]
    if choice in ("sweep=proposals", "sweep=svd"):
        return [choice, "ckpt_path=/somewhere.ckpt"]
    needs_folder = group == "model" and needs_proposals(name)
    return [choice, "proposals.folder=/somewhere"] if needs_folder else [choice]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_shipped_choice_composes_and_passes_the_door(choice: str, composed: Compose) -> None:
    config = parse(composed(*overrides(choice)))
    assert config.settings(("thing",), config.detector["backbone"]).class_names == ("thing",)


def test_the_default_config_states_every_threshold(composed: Compose) -> None:
    assert set(composed()["thresholds"]) == set(threshold_keys())


def test_the_default_thresholds_are_those_of_the_settings(composed: Compose) -> None:
    config = parse(composed("data=voc", "data.root=x"))
    for stage, cls in THRESHOLDS.values():
        assert config.detector[stage] == cls()


def test_every_shipped_backbone_of_the_issue_has_a_config() -> None:
    configured = {path.stem for path in (CONF / "backbone").glob("*.yaml")}
    wanted = {"vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"}
    wanted |= {"resnet18_fpn", "resnet50_fpn", "resnet101_fpn", "mobilenet_v3_large_fpn"}
    assert wanted <= configured <= set(SHIPPED)


def test_an_override_reaches_its_stage(composed: Compose) -> None:
    config = parse(composed("anchors.scales=[4,8,16]", "thresholds.rpn_positive_iou=0.6"))
    assert config.detector["anchors"].scales == (4.0, 8.0, 16.0)
    assert config.detector["anchor_sampling"].positive_iou == 0.6


def test_the_default_speed_is_that_of_the_settings(composed: Compose) -> None:
    assert parse(composed()).speed == SpeedSettings()
    assert composed()["speed"] == to_plain(SpeedSettings())
    assert parse(composed("speed.compile=true")).speed.compile


def test_shapes_are_learned_from_random_weights_and_other_data_from_imagenet(
    composed: Compose,
) -> None:
    assert parse(composed("backbone=vgg16")).detector["backbone"].weights is None
    other = parse(composed("backbone=vgg16", "data=voc", "data.root=x"))
    assert other.detector["backbone"].weights == "auto"


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("+thresholds.rpn_postive_iou=0.6", "thresholds.rpn_positive_iou"),
        ("+trainer.max_epoch=9", "trainer.max_epochs"),
        ("+anchors.scale=[4]", "scales"),
        ("+sede=42", "seed"),
        ("+optimizer.learning_rat=1", "optimizer."),
        ("+callbacks.checkpoint.montor=x", "callbacks.checkpoint.monitor"),
        ("+loader.batchsize=4", "batch_size"),
        ("+model.rpn.chanels=4", "channels"),
        ("+data.tain=4", "data.train"),
        ("+speed.chanels_last=false", "channels_last"),
    ],
)
def test_a_mistyped_key_is_an_error_that_names_the_nearest(
    override: str, nearest: str, composed: Compose
) -> None:
    plain = composed(override)
    with pytest.raises(SettingsError, match="Unknown key") as caught:
        parse(plain)
    assert nearest in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=fortytwo", "seed='fortytwo' is not possible: it must be a whole number"),
        ("trainer.max_epochs=ten", "trainer.max_epochs='ten'"),
        ("thresholds.rpn_positive_iou=1.6", "thresholds.rpn_positive_iou=1.6"),
        ("thresholds.rpn_samples=many", "thresholds.rpn_samples='many'"),
        ("anchors.scales=8", "anchors.scales=8"),
        ("pooling.kind=roi_max", "choose one of 'roi_pool', 'roi_align', 'crop'"),
        ("backbone.name=vgg61", "did you mean 'vgg16'"),
        ("images.multiple=0", "images.multiple=0"),
        ("loader.workers=-1", "loader.workers=-1"),
        ("data.train=lots", "data.train='lots'"),
        ("data._target_=rcnn.data.ShapeSource", "rcnn.data.ShapeSource"),
        ("task=test", "ckpt_path"),
        ("speed.compile=2", "speed.compile=2 is not possible: it must be true or false"),
        ("speed.matmul=low", "choose one of 'highest', 'high', 'medium'"),
        ("data=voc", "data.root has to be given"),
    ],
)
def test_an_impossible_value_is_an_error_that_names_key_and_value(
    override: str, message: str, composed: Compose
) -> None:
    plain = composed(override)
    with pytest.raises(SettingsError) as caught:
        parse(plain)
    assert message in str(caught.value)


def test_a_typo_in_an_experiment_file_is_found(composed: Compose) -> None:
    plain = composed()
    plain["trainer"]["max_epoch"] = 99
    with pytest.raises(SettingsError, match=r"did you mean 'trainer.max_epochs'"):
        parse(plain)


def test_a_class_of_the_users_own_is_held_against_its_signature(composed: Compose) -> None:
    parse(composed("data._target_=rcnn.data.ShapesSource", "data.train=4"))
    plain = composed()
    plain["data"] = {"_target_": "rcnn.data.VOCSource"}
    with pytest.raises(SettingsError, match=r"data lacks root"):
        parse(plain)


def test_any_optimiser_of_pytorchs_kind_plugs_in(composed: Compose) -> None:
    plain = composed()
    plain["optimizer"] = {
        "_target_": "rcnn.training.optim.OptimizerFactory",
        "optimizer": {"_target_": "torch.optim.RMSprop", "_partial_": True, "lr": 1e-4},
        "scheduler": {
            "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "_partial_": True,
        },
        "length_argument": "T_max",
    }
    recipe = instantiate(parse(plain).plain["optimizer"], _convert_="all")
    optimizer, schedule = recipe(torch.nn.Linear(2, 2), total_steps=10, images_per_step=2)
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert schedule.T_max == 10
    plain["optimizer"]["optimizer"]["learning_rate"] = 1.0
    with pytest.raises(SettingsError, match=r"Unknown key 'optimizer.optimizer.learning_rate'"):
        parse(plain)
