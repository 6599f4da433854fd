"""Every file in conf/ composes and passes the check; mistakes do not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

from rcnn.app.config import (
    PARTS,
    Config,
    apply_checkpoint_settings,
    detector_keys,
    parse,
    read_overrides,
    schema,
)
from rcnn.app.keys import RENAMED, nodes
from rcnn.model.backbones import SHIPPED, resolve
from rcnn.model.build import SYSTEMS, build_detector, needs_proposals
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError, to_plain
from rcnn.training import DetectionModule
from rcnn.training.checkpoints import save

Compose = Callable[..., dict[str, Any]]
CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF
)
FOLDER = "proposals.folder=/somewhere"


def overrides(choice: str) -> list[str]:
    """Return what a choice needs beside itself."""
    own_data = [f"data={layout}" for layout in ("auto", "coco", "csv", "labelme", "voc", "yolo")]
    if choice in own_data or choice.startswith("experiment="):
        return [choice, "data.root=/somewhere", FOLDER]
    if choice.startswith("sweep/"):  # a row of that sweep
        return [choice.partition("=")[0].replace("/", "="), f"+{choice}", FOLDER]
    if choice in ("sweep=proposals", "sweep=svd"):
        return [choice, "ckpt_path=/somewhere.ckpt"]
    return [choice, FOLDER]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_composes_and_passes_the_check(choice: str, composed: Compose) -> None:
    config = parse(composed(*overrides(choice)))
    assert config.settings(("thing",), config.detector["backbone"]).class_names == ("thing",)


# --- defaults -----------------------------------------------------------------------------------


def test_the_schema_holds_the_defaults_of_the_settings(composed: Compose) -> None:
    detector, tree = DetectorSettings(("thing",)), schema()
    assert set(PARTS) | {"class_names"} == set(to_plain(detector))
    values = dict(nodes(tree))
    for key, (part, name) in detector_keys().items():
        assert values[key] == to_plain(getattr(type(getattr(detector, part))(), name)), key
    assert set(dict(nodes(tree))) <= set(dict(nodes(composed())))


def test_without_small_pictures_the_defaults_are_those_of_the_settings(composed: Compose) -> None:
    config = parse(composed("data=voc", "data.root=x", "anchors=paper", "backbone=vgg16"))
    for part, found in config.detector.items():
        assert part == "backbone" or found == type(found)(), part
    assert config.detector["backbone"].weights == "auto"


@pytest.mark.parametrize(
    ("words", "part", "field", "value"),
    [
        ((), "images", "shorter_side", 160),
        (("images.shorter_side=100",), "images", "shorter_side", 100),
        (("data=voc", "data.root=x"), "images", "shorter_side", 600),
        ((), "proposals", "after_nms_test", 100),
        (("thresholds=torchvision",), "proposals", "after_nms_test", 1000),
        (("thresholds.proposal_after_nms_test=7",), "proposals", "after_nms_test", 7),
        (("model=fast_rcnn", FOLDER), "proposals", "after_nms_test", 2000),
        (("model=fast_rcnn", FOLDER), "roi_sampling", "background_low", 0.1),
        (("model=fast_rcnn", FOLDER, "thresholds=faster_rcnn"), "proposals", "after_nms_test", 300),
        (("backbone=vgg16",), "backbone", "weights", None),
        (("backbone.weights=auto",), "backbone", "weights", "auto"),
        (("model=sppnet", FOLDER, "backbone=vgg16"), "pooling", "kind", "pyramid"),
        (("model=sppnet", FOLDER, "pooling=crop"), "pooling", "kind", "crop"),
        (("model=sppnet", FOLDER), "backbone", "box_head", "two_mlp"),
        (("anchors.scales=[4,8,16]",), "anchors", "scales", (4.0, 8.0, 16.0)),
        (("thresholds.rpn_positive_iou=0.6",), "anchor_sampling", "positive_iou", 0.6),
        (("model.warp.size=227",), "warp", "size", 227),
    ],
)
def test_data_and_system_have_their_defaults_and_what_the_user_says_wins(
    words: tuple[str, ...], part: str, field: str, value: object, composed: Compose
) -> None:
    assert getattr(parse(composed(*words)).detector[part], field) == value


def test_each_system_learns_from_the_background_of_its_paper(composed: Compose) -> None:
    lows = {
        system: parse(composed(f"model={system}", FOLDER)).detector["roi_sampling"].background_low
        for system in SYSTEMS
    }
    paper = {"rcnn": 0.0, "sppnet": 0.1, "fast_rcnn": 0.1, "faster_rcnn": 0.0, "rpn": 0.0}
    assert lows == paper


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_choice_of_model_builds_its_system(system: str, composed: Compose) -> None:
    config = parse(composed(f"model={system}", FOLDER))
    detector = build_detector(system, config.settings(("thing",), config.detector["backbone"]))
    assert type(detector) is SYSTEMS[system]
    assert config.run.monitor == ("val/recall_300" if system == "rpn" else "val/map")


def test_groups_and_classes_have_a_file_for_each_shipped_choice() -> None:
    assert {path.stem for path in (CONF / "model").glob("*.yaml")} == set(SYSTEMS)
    assert {path.stem for path in (CONF / "backbone").glob("*.yaml")} <= {*SHIPPED, "timm"}


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("+thresholds.rpn_postive_iou=0.6", "thresholds.rpn_positive_iou"),
        ("+rpn_positive_iou=0.6", "thresholds.rpn_positive_iou"),
        ("+trainer.max_epoch=9", "trainer.max_epochs"),
        ("+anchors.scale=[4]", "anchors.scales"),
        ("+sede=42", "seed"),
        ("+optimizer.learning_rat=1", "optimizer."),
        ("+callbacks.checkpoint.montor=x", "callbacks.checkpoint.monitor"),
        ("+loader.batchsize=4", "loader.batch_size"),
        ("+model.rpn.chanels=4", "model.rpn.channels"),
        ("+data.tain=4", "data.train"),
        ("+speed.chanels_last=false", "speed.channels_last"),
        *((f"+{old}=1", new) for old, new in RENAMED.items() if old != "model.head"),
        ("+model.head.classifier=softmax", "model.box_predictor"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest_with_its_full_path(
    override: str, nearest: str, composed: Compose
) -> None:
    plain = composed(override)
    with pytest.raises(SettingsError, match=f"Unknown key .*, did you mean '{nearest}"):
        parse(plain)


def test_every_new_name_of_a_renamed_key_exists() -> None:
    keys = set(dict(nodes(schema())))
    assert set(RENAMED.values()) <= keys
    assert keys.isdisjoint(RENAMED)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=fortytwo", "seed='fortytwo'"),
        ("trainer.max_epochs=ten", "trainer.max_epochs='ten'"),
        ("thresholds.rpn_positive_iou=1.6", "thresholds.rpn_positive_iou=1.6"),
        ("thresholds.rpn_samples=many", "thresholds.rpn_samples='many'"),
        ("anchors.scales=8", "anchors.scales=8"),
        ("anchors=null", "anchors=None"),
        ("pooling.kind=roi_max", "'roi_align'"),
        ("backbone.name=vgg61", "did you mean 'vgg16'"),
        ("images.multiple=0", "images.multiple=0"),
        ("loader.workers=-1", "loader.workers=-1"),
        ("data.train=lots", "data.train='lots'"),
        ("data._target_=rcnn.data.ShapeSource", "rcnn.data.ShapeSource"),
        ("task=test", "ckpt_path"),
        ("speed.compile=2", "speed.compile=2"),
        ("speed.matmul=low", "'highest'"),
        ("data=voc", "data.root has to be given"),
        ("scheme.name=alternating", "scheme.shares"),
        ("model.system=fast_rcn", "did you mean 'fast_rcnn'"),
        ("model.warp.context=112", "model.warp.context=112"),
        ("model.delta_statistics=empirical", "model.delta_statistics='empirical'"),
    ],
)
def test_an_impossible_value_is_an_error_that_names_key_and_value(
    override: str, told: str, composed: Compose
) -> None:
    plain = composed()
    if override == "anchors=null":
        plain["anchors"] = None
    else:
        plain = composed(override)
    with pytest.raises(SettingsError) as caught:
        parse(plain)
    assert told in str(caught.value)


@pytest.mark.parametrize("system", [name for name in SYSTEMS if needs_proposals(name)])
def test_a_system_without_rpn_asks_for_the_folder(system: str, composed: Compose) -> None:
    with pytest.raises(SettingsError, match=rf"model={system} .*proposals\.folder=<"):
        parse(composed(f"model={system}"))


def test_a_class_of_the_users_own_is_checked_against_its_signature(composed: Compose) -> None:
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


# --- overrides of the command line, and the settings of a checkpoint under test -----------------


def test_keys_choices_and_whole_groups_are_read_from_the_command_line() -> None:
    words = ["a.b=0.1", "backbone=vgg16", "+sweep/lineage=rcnn", "~logger", "++c={d:1,e:[8,16]}"]
    assert read_overrides(words) == {
        "a.b": 0.1,
        "backbone": "vgg16",
        "sweep/lineage": "rcnn",
        "logger": None,
        "c.d": 1,
        "c.e": [8, 16],
    }


TRAINED = (
    *(
        "backbone=resnet18",
        "backbone.box_head=two_mlp",
        "backbone.hidden=8",
        "anchors.scales=[2,4]",
    ),
    *("thresholds.roi_samples=16", "thresholds.detection_score=0.2"),
)
"""The words with which the checkpoint was trained."""

Settle = Callable[..., tuple[Config, list[str]]]


@pytest.fixture
def checkpoint(composed: Compose, tmp_path: Path) -> Path:
    """A detector as ``TRAINED`` says, which has learned nothing."""
    config = parse(composed(*TRAINED))
    backbone, _ = resolve(config.detector["backbone"])
    module = DetectionModule(config.settings(("cat", "dog"), backbone))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    path = tmp_path / "some.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.fixture
def settle(composed: Compose, checkpoint: Path) -> Settle:
    """Settles the config of a test of the checkpoint with some words."""

    def function(*words: str) -> tuple[Config, list[str]]:
        asked = composed(*words, "task=test", f"ckpt_path={checkpoint}")
        plain, notes = apply_checkpoint_settings(asked, read_overrides(words))
        return parse(plain), notes

    return function


def settings(config: Config) -> DetectorSettings:
    return config.settings(("cat", "dog"), config.detector["backbone"])


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
def test_a_checkpoint_brings_all_its_settings(
    words: tuple[str, ...], settle: Settle, checkpoint: Path
) -> None:
    config, notes = settle(*words)
    assert settings(config) == DetectionModule.load_from_checkpoint(checkpoint).settings
    assert config.system == "faster_rcnn"
    assert notes == []


def test_what_concerns_detection_is_changed_with_a_note_each(
    settle: Settle, checkpoint: Path
) -> None:
    config, notes = settle(
        "thresholds={proposal_after_nms_test:7,proposal_nms_iou:1.0}",
        "thresholds.detection_score=0.2",
        "images.test_scales=[100,160]",
        "model.warp.chunk=3",
        "backbone.ranks=[4,0]",  # of the checkpoint's box head; the default backbone has no fc6
    )
    changed = settings(config)
    own = DetectionModule.load_from_checkpoint(checkpoint).settings
    assert (changed.proposals.after_nms_test, changed.proposals.nms_iou) == (7, 1.0)
    assert changed.images.test_scales == (100, 160)
    assert (changed.warp.chunk, changed.backbone.ranks) == (3, (4, 0))
    assert changed.proposals.before_nms_test == own.proposals.before_nms_test
    assert changed.anchors == own.anchors
    assert sorted(note.split("; ")[0] for note in notes) == [
        "Tested with backbone.ranks=[4,0]",
        "Tested with images.test_scales=[100,160]",
        "Tested with model.warp.chunk=3",
        "Tested with thresholds.proposal_after_nms_test=7",
        "Tested with thresholds.proposal_nms_iou=1.0",
    ]


@pytest.mark.parametrize("wanted", ["null", "[2,2]"])
def test_truncated_layers_are_neither_whole_again_nor_truncated_twice(
    wanted: str, settle: Settle, checkpoint: Path
) -> None:
    save(DetectionModule.load_from_checkpoint(checkpoint).compressed((4, 3)), checkpoint)
    assert settings(settle()[0]).backbone.ranks == (4, 3)
    with pytest.raises(SettingsError, match=r"backbone\.ranks=\S+ \(the checkpoint has \[4,3\]\)"):
        settle(f"backbone.ranks={wanted}")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("anchors.scales=[8]", r"anchors\.scales=\[8(\.0)?\] \(the checkpoint has \[2\.0,4\.0\]\)"),
        ("anchors=paper", r"anchors\.scales="),
        ("backbone=vgg16", r"backbone\.name=vgg16 \(the checkpoint has resnet18\)"),
        ("images.shorter_side=150", r"images\.shorter_side=150"),
        ("thresholds.roi_samples=64", r"thresholds\.roi_samples=64 \(the checkpoint has 16\)"),
        ("thresholds=torchvision", r"thresholds\.roi_samples=512"),
        ("model=rpn", r"model\.system=rpn \(the checkpoint has faster_rcnn\)"),
        ("model.box_predictor.class_agnostic=true", r"class_agnostic=true"),
    ],
)
def test_what_only_a_training_can_change_is_refused_by_name(
    word: str, told: str, settle: Settle
) -> None:
    with pytest.raises(SettingsError, match=f"not possible: .*{told}") as caught:
        settle(word, "thresholds.proposal_score=0.1")
    assert "thresholds.proposal_score=" not in str(caught.value)
    assert "thresholds.proposal_before_nms_test" in str(caught.value)


def test_a_training_is_left_alone(composed: Compose) -> None:
    plain = composed("ckpt_path=/nowhere.ckpt")
    assert apply_checkpoint_settings(plain, {}) == (plain, [])
