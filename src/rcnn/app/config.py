"""The config of a run: its schema, and the check that it passes before anything is loaded.

The settings classes are the only home of a default: ``schema`` makes from them the nodes that
Hydra composes on, and a YAML file holds differences only. The groups that name classes by
``_target_`` are held against the signatures of those classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from pydantic import PositiveFloat, StringConstraints

from rcnn.app.keys import check_targets, leaves, nodes, unknown_key
from rcnn.data.augment import AugmentSettings
from rcnn.data.proposals import ProposalFiles
from rcnn.inference.checkpoint import CHECKPOINT_KEY, read_checkpoint
from rcnn.model.backbones import BackboneSettings
from rcnn.model.build import needs_proposals, system_class
from rcnn.model.settings import DetectorSettings, may_change_after_training
from rcnn.model.speed import SpeedSettings
from rcnn.report import read_plan
from rcnn.settings import SettingsError, from_plain, require, settings, to_plain
from rcnn.training.datamodule import LoaderSettings

PARTS = {
    "images": "images.",
    "backbone": "backbone.",
    "anchors": "anchors.",
    "pooling": "pooling.",
    "rpn": "model.rpn.",
    "box_predictor": "model.box_predictor.",
    "deltas": "model.deltas.",
    "warp": "model.warp.",
    "losses": "model.losses.",
    "anchor_sampling": "thresholds.rpn_",
    "proposals": "thresholds.proposal_",
    "roi_sampling": "thresholds.roi_",
    "detections": "thresholds.detection_",
}
"""How the keys of each part of the detector's settings begin in the config."""

TARGETS = ("data", "optimizer", "trainer", "logger", "callbacks")
"""The groups that name classes by ``_target_``."""

Text = Annotated[str, StringConstraints(min_length=1)]


@settings
class RunConfig:
    """What to do with the rest of the config; its keys are at the top level.

    Attributes:
        run_dir: folder of this run.
        name: name of the experiment or its data; its runs lie in ``outputs/<name>``.
        task: ``train`` (then test the best checkpoint), ``test`` a checkpoint, or ``find_lr``: draw
            the loss over the learning rate.
        ckpt_path: path of the checkpoint to test, or to resume from.
        seed: seed of everything random.
        monitor: the validation metric that chooses the best checkpoint, and that a sweep gets;
            null where there is no validation split.
        plus_one: VOC's metric counts pixels inclusively, as its development kit does.
    """

    run_dir: Text
    name: Text = "run"
    task: Literal["train", "test", "find_lr"] = "train"
    ckpt_path: Text | None = None
    seed: int = 0
    monitor: str | None = "val/map"
    plus_one: bool = False

    def __post_init__(self) -> None:
        usable = self.task != "test" or self.ckpt_path is not None
        require(usable, "ckpt_path", self.ckpt_path, "task=test needs a checkpoint")
        starts = self.task != "find_lr" or self.ckpt_path is None
        require(starts, "ckpt_path", self.ckpt_path, "task=find_lr starts from no checkpoint")


@settings
class ModelConfig:
    """The keys of the group ``model`` that are no part of the detector's settings.

    Attributes:
        system: which detector, see ``rcnn.model.build``.
        delta_statistics: what normalises box targets: the ``fixed`` numbers of ``model.deltas``, or
            the ``empirical`` mean and deviation of each class, measured on the training split.
    """

    system: str = "faster_rcnn"
    delta_statistics: Literal["fixed", "empirical"] = "fixed"

    def __post_init__(self) -> None:
        system_class(self.system)
        require(
            self.delta_statistics == "fixed" or needs_proposals(self.system),
            "delta_statistics",
            self.delta_statistics,
            f"before the training of model={self.system} there are no proposals to measure; "
            "choose fixed, or a system that learns from stored proposals",
        )


@settings
class SchemeConfig:
    """The group ``scheme``: in what order the parts of the detector learn.

    Attributes:
        name: ``joint`` and ``exact`` are one training; ``alternating``, ``unshared`` and
            ``stage_wise`` are several, see ``rcnn.training.schemes``.
        shares: share of the run's optimiser steps for each training: four of ``alternating``, two
            of ``unshared`` and ``stage_wise``.
        store: folder of the products of the trainings, which runs share.
    """

    name: Literal["joint", "exact", "alternating", "unshared", "stage_wise"] = "joint"
    shares: tuple[PositiveFloat, ...] = ()
    store: Text | None = None

    def __post_init__(self) -> None:
        if not self.in_phases:
            return
        count = 4 if self.name == "alternating" else 2
        allowed = f"scheme={self.name} needs {count} numbers above 0, one for each training"
        require(len(self.shares) == count, "shares", self.shares, allowed)
        require(self.store is not None, "store", self.store, f"scheme={self.name} needs a folder")

    @property
    def in_phases(self) -> bool:
        """Whether there are several trainings."""
        return self.name in ("alternating", "unshared", "stage_wise")


@dataclass(frozen=True)
class Config:
    """A config that has been checked.

    Attributes:
        run: what to do.
        system: which detector.
        delta_statistics: see ``ModelConfig``.
        scheme: in what order the parts of the detector learn.
        detector: settings of the detector by part, without the class names, which the data gives.
        loader: how minibatches are made.
        augment: random changes of the training images.
        proposals: where the stored proposals are, for a system that makes none.
        speed: how the detector is run.
        plain: the whole composed config, resolved, for instantiation and the record.
    """

    run: RunConfig
    system: str
    delta_statistics: Literal["fixed", "empirical"]
    scheme: SchemeConfig
    detector: dict[str, Any]
    loader: LoaderSettings
    augment: AugmentSettings
    proposals: ProposalFiles
    speed: SpeedSettings
    plain: dict[str, Any]

    def settings(
        self, class_names: tuple[str, ...], backbone: BackboneSettings
    ) -> DetectorSettings:
        """Return the detector's settings for the classes of the data and a resolved backbone."""
        return DetectorSettings(class_names, **{**self.detector, "backbone": backbone})


# --- schema -----------------------------------------------------------------------------------

GROUPS = {
    "scheme": SchemeConfig,
    "loader": LoaderSettings,
    "augment": AugmentSettings,
    "proposals": ProposalFiles,
    "speed": SpeedSettings,
}
"""The groups that are one settings class each."""


def detector_keys() -> dict[str, tuple[str, str]]:
    """Return the part and the field of the detector's settings for every key of the config."""
    return {
        f"{prefix}{entry.name}": (part, entry.name)
        for part, prefix in PARTS.items()
        for entry in fields(_default_part(part))
    }


def schema() -> dict[str, Any]:
    """Return every key of the config that has a default, with the default."""
    tree: dict[str, Any] = _defaults(RunConfig)
    for key, (part, name) in detector_keys().items():
        _put(tree, key, to_plain(getattr(_default_part(part), name)))
    tree["model"] |= _defaults(ModelConfig)
    return tree | {group: _defaults(cls) for group, cls in GROUPS.items()}


def register_schema() -> None:
    """Let Hydra know the schema under the name that ``conf/config.yaml`` starts from."""
    ConfigStore.instance().store("schema", schema())


def _default_part(part: str) -> Any:
    return next(entry.default for entry in fields(DetectorSettings) if entry.name == part)


def _defaults(cls: type) -> dict[str, Any]:
    has_default = [entry for entry in fields(cls) if entry.default is not MISSING]
    return {entry.name: to_plain(entry.default) for entry in has_default}


# --- parsing ----------------------------------------------------------------------------------


def compose(words: Sequence[str], conf: Path) -> Config:
    """Return the checked config of a run that is not started.

    Args:
        words: overrides, such as ``backbone=vgg16``.
        conf: folder of the config groups.

    Raises:
        SettingsError: as ``parse``.
        HydraException: a group or a choice is unknown, or a word is no override.
    """
    register_schema()
    with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
        composed = hydra.compose("config", overrides=[*words, "run_dir=."])
    return parse(cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True)))


def parse(plain: dict[str, Any]) -> Config:
    """Check a composed, resolved config.

    Raises:
        SettingsError: naming the key, the value, what is allowed, and the nearest valid key.
    """
    _check_keys(plain)
    values = dict(nodes(plain))
    run = {key: plain[key] for key in _names(RunConfig) if key in plain}
    model = {key: plain["model"][key] for key in _names(ModelConfig) if key in plain["model"]}
    detector = {}
    for part, prefix in PARTS.items():
        cls = type(_default_part(part))
        own = {name: values.get(prefix + name) for name in _names(cls)}
        detector[part] = from_plain(cls, own, prefix.removesuffix("."))
    config = Config(
        run=from_plain(RunConfig, run),
        **vars(from_plain(ModelConfig, model, "model")),
        **{group: from_plain(cls, plain[group], group) for group, cls in GROUPS.items()},
        detector=detector,
        plain=plain,
    )
    for group in TARGETS:
        check_targets(plain[group], group)
    if plain.get("sweep") is not None:
        read_plan(plain["sweep"])
    if needs_proposals(config.system) and config.proposals.folder is None:
        raise SettingsError(
            f"model={config.system} makes no proposals itself: give proposals.folder=<folder>, "
            "which holds {train,val,test}.safetensors as `rcnn propose` makes them."
        )
    return config


def _check_keys(plain: Mapping[str, Any]) -> None:
    tree = schema()
    checked = {key: node for key, node in plain.items() if key not in (*TARGETS, "sweep")}
    known = {*dict(nodes(tree)), *_names(RunConfig), *TARGETS, "sweep"}
    for key, _ in nodes(checked):
        if key not in known:
            # What is written elsewhere in the config may be what was meant, too.
            raise SettingsError(unknown_key(key, known | set(dict(nodes(plain))) - {key}))
    missing = [key for key in (*tree, *TARGETS) if key not in plain]
    if missing:
        raise SettingsError(f"The config lacks {', '.join(missing)}.")
    for key, node in tree.items():
        if isinstance(node, dict):
            require(isinstance(plain[key], dict), key, plain[key], "it should hold keys and values")


def _names(cls: type) -> list[str]:
    return [entry.name for entry in fields(cls)]


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        plain = plain.setdefault(group, {})
    plain[last] = value


# --- the settings of a checkpoint under test ----------------------------------------------------

CHOICES = {"backbone": "backbone.name", "pooling": "pooling.kind", "model": "model.system"}
"""Groups of which a choice means one key; the rest of the group is the checkpoint's."""

SETTLED = ("backbone.weights", "backbone.frozen_stages", "backbone.norm")
"""Keys that say how a training starts; a checkpoint holds what they were resolved to."""

RANKS = "backbone.ranks"
"""Ranks of fc6 and fc7: a checkpoint that has them whole can be tested with them truncated."""


def apply_checkpoint_settings(
    composed: dict[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the config of a test with the settings of its checkpoint, and a note on each change.

    A detector is tested with the settings it was trained with, whatever the config has for them.
    The command line may change those that concern detection only, and truncate fc6 and fc7.

    Args:
        composed: composed, resolved config, of which nothing has been checked; one that does not
            test a checkpoint is returned as it is.
        overrides: overrides of the command line, by key or group, see ``read_overrides``.

    Raises:
        CheckpointError: the file is missing, damaged, or no checkpoint of this package.
        SettingsError: the command line changes more than what concerns detection.
    """
    path = composed.get("ckpt_path")
    if composed.get("task") != "test" or not isinstance(path, str):
        return composed, []
    record = read_checkpoint(path)[CHECKPOINT_KEY]
    trained = from_plain(DetectorSettings, record["settings"])
    keys = detector_keys()
    own = {"model.system": record["system"]}
    own |= {key: to_plain(getattr(getattr(trained, part), n)) for key, (part, n) in keys.items()}
    asked = dict(nodes(composed))
    said = {CHOICES.get(k, k) if isinstance(v, str) else k for k, v in overrides.items()}
    plain = copy.deepcopy(composed)
    notes, refused = [], []
    for key, value in own.items():
        wanted = asked.get(key)
        is_said = any(key == name or key.startswith(f"{name}.") for name in said)
        if not is_said or wanted == value or key in SETTLED:
            _put(plain, key, value)
        elif (key in keys and may_change_after_training(*keys[key])) or (
            key == RANKS and value is None
        ):
            notes.append(f"Tested with {key}={_spell(wanted)}; the checkpoint has {_spell(value)}.")
        else:
            refused.append(f"{key}={_spell(wanted)} (the checkpoint has {_spell(value)})")
    if refused:
        allowed = ", ".join(key for key, field in keys.items() if may_change_after_training(*field))
        raise SettingsError(
            f"With task=test this is not possible: {', '.join(refused)}. {path} was trained with "
            "other settings, and is tested with its own: leave these out. Only what concerns "
            f"detection can be changed: {allowed}; and {RANKS} where the checkpoint has fc6 and "
            "fc7 whole."
        )
    return plain, notes


def read_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Return the value of each dotted key, and the choice of each group; a deleted one is None.

    Args:
        words: overrides such as ``thresholds.proposal_score=0.1``, ``backbone=vgg16``, ``~logger``.
    """
    parsed = OverridesParser.create().parse_overrides(list(words))
    return leaves({override.key_or_group: override.value() for override in parsed})


def _spell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace(" ", "")
