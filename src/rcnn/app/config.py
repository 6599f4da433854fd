"""The config of a run: its schema, and the check that it passes before anything is loaded.

The settings classes are the only home of a default: ``schema`` makes from them the nodes that
Hydra composes on, and a YAML file holds differences only. The groups that name classes by
``_target_`` are held against the signatures of those classes.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from pydantic import PositiveFloat, StringConstraints

from rcnn.data.proposals import ProposalFiles
from rcnn.inference.checkpoint import CHECKPOINT_KEY, read_checkpoint
from rcnn.model.backbones import BackboneSettings
from rcnn.model.build import needs_proposals, system_class
from rcnn.model.settings import DetectorSettings, may_change_after_training
from rcnn.model.speed import SpeedSettings
from rcnn.report import read_plan
from rcnn.settings import SettingsError, from_plain, nearest, require, settings, to_plain
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

RENAMED = {
    "backbone.tail": "backbone.box_head",
    "model.head": "model.box_predictor",
    "thresholds.detection_refine": "thresholds.detection_ablate_regression",
    "thresholds.proposal_rank_test": "thresholds.proposal_ablate_ranking",
    "thresholds.proposal_refine_test": "thresholds.proposal_ablate_regression",
    "thresholds.proposal_unique_on_grid": "thresholds.proposal_dedup_on_feature_grid",
    "thresholds.roi_append_truth": "thresholds.roi_append_gt",
    "thresholds.roi_candidates": "thresholds.roi_ohem_candidates",
    "thresholds.roi_fill": "thresholds.roi_pad_with",
    "thresholds.roi_mining": "thresholds.roi_ohem",
    "thresholds.roi_per": "thresholds.roi_samples_per",
    "thresholds.roi_rois": "thresholds.roi_samples",
    "thresholds.rpn_best_within": "thresholds.rpn_low_quality_margin",
    "thresholds.rpn_inside_only": "thresholds.rpn_skip_border_anchors",
}
"""Keys of version 0.1 and their present names, for messages."""

Text = Annotated[str, StringConstraints(min_length=1)]


@settings
class RunConfig:
    """What to do with the rest of the config; its keys are at the top level.

    Attributes:
        run_dir: folder of this run.
        name: name of the experiment or its data; its runs lie in ``outputs/<name>``.
        task: ``train`` (then test the best checkpoint), or ``test`` a checkpoint.
        ckpt_path: path of the checkpoint to test, or to resume from.
        seed: seed of everything random.
        monitor: the validation metric that chooses the best checkpoint, and that a sweep gets;
            null where there is no validation split.
        plus_one: VOC's metric counts pixels inclusively, as its development kit does.
    """

    run_dir: Text
    name: Text = "run"
    task: Literal["train", "test"] = "train"
    ckpt_path: Text | None = None
    seed: int = 0
    monitor: str | None = "val/map"
    plus_one: bool = False

    def __post_init__(self) -> None:
        usable = self.task == "train" or self.ckpt_path is not None
        require(usable, "ckpt_path", self.ckpt_path, "task=test needs a checkpoint")


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


def parse(plain: dict[str, Any]) -> Config:
    """Check a composed, resolved config.

    Raises:
        SettingsError: naming the key, the value, what is allowed, and the nearest valid key.
    """
    _check_keys(plain)
    top = {entry.name for entry in fields(RunConfig)}
    run = from_plain(RunConfig, {key: plain[key] for key in plain if key in top})
    model = from_plain(ModelConfig, _own(ModelConfig, plain["model"]), "model")
    scheme = from_plain(SchemeConfig, plain["scheme"], "scheme")
    loader = from_plain(LoaderSettings, plain["loader"], "loader")
    files = from_plain(ProposalFiles, plain["proposals"], "proposals")
    speed = from_plain(SpeedSettings, plain["speed"], "speed")
    detector = {}
    for part, prefix in PARTS.items():
        cls = type(_default_part(part))
        values = {entry.name: _get(plain, prefix + entry.name) for entry in fields(cls)}
        detector[part] = from_plain(cls, values, prefix.removesuffix("."))
    for group in TARGETS:
        check_targets(plain[group], group)
    if plain.get("sweep") is not None:
        read_plan(plain["sweep"])
    if needs_proposals(model.system) and files.folder is None:
        raise SettingsError(
            f"model={model.system} makes no proposals itself: give proposals.folder=<folder>, "
            "which holds {train,val,test}.safetensors as `rcnn propose` makes "
            "them."
        )
    return Config(
        run=run,
        system=model.system,
        delta_statistics=model.delta_statistics,
        scheme=scheme,
        detector=detector,
        loader=loader,
        proposals=files,
        speed=speed,
        plain=plain,
    )


def unknown_key(key: str, keys: Iterable[str]) -> str:
    """Return a message that names the nearest of all valid keys, and those of the same group."""
    keys = sorted(keys)
    renamed = [old for old in RENAMED if key == old or key.startswith(f"{old}.")]
    same_name = [other for other in keys if other.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = nearest(key, same_name) if same_name else nearest(key, keys)
    if renamed:
        hint = f", did you mean {RENAMED[renamed[0]] + key.removeprefix(renamed[0])!r}?"
    group = key.rpartition(".")[0]
    names = [other.rpartition(".")[2] for other in keys if other.rpartition(".")[0] == group]
    siblings = f" Known keys{f' of {group}' if group else ''}: {', '.join(names)}." if names else ""
    return f"Unknown key {key!r}{hint}{siblings}"


def dotted_keys(tree: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Return the dotted key of every node, groups before their keys."""
    for key, value in tree.items():
        yield f"{where}{key}"
        if isinstance(value, Mapping):
            yield from dotted_keys(value, f"{where}{key}.")


def _check_keys(plain: Mapping[str, Any]) -> None:
    tree = schema()
    free = {*TARGETS, "sweep"}
    known = {*dotted_keys(tree), *(entry.name for entry in fields(RunConfig)), *free}
    for key in dotted_keys({key: node for key, node in plain.items() if key not in free}):
        if key not in known:
            # What is written elsewhere in the config may be what was meant, too.
            raise SettingsError(unknown_key(key, known | set(dotted_keys(plain)) - {key}))
    missing = [key for key in (*tree, *TARGETS) if key not in plain]
    if missing:
        raise SettingsError(f"The config lacks {', '.join(missing)}.")
    for key, node in tree.items():
        if isinstance(node, dict):
            require(isinstance(plain[key], dict), key, plain[key], "it should hold keys and values")


def _own(cls: type, node: Mapping[str, Any]) -> dict[str, Any]:
    return {entry.name: node[entry.name] for entry in fields(cls) if entry.name in node}


def _get(plain: Mapping[str, Any], key: str) -> Any:
    value: Any = plain
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        plain = plain.setdefault(group, {})
    plain[last] = value


# --- classes by their dotted paths --------------------------------------------------------------

_HYDRA_KEYS = {"_target_", "_partial_", "_args_", "_convert_", "_recursive_"}
_PLAIN = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def check_targets(node: Any, where: str) -> None:
    """Check every ``_target_`` at or below ``node`` against its signature, without calling it.

    Raises:
        SettingsError: a class cannot be imported, has no such argument (the nearest is named),
            lacks one that it needs, or is given a value of the wrong simple type.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_call(node, where)
        for key, value in node.items():
            check_targets(value, f"{where}.{key}")
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            check_targets(value, f"{where}[{index}]")


def target_keys(node: Mapping[str, Any], where: str) -> list[str]:
    """Return the dotted keys of the arguments that a node's class takes.

    Raises:
        SettingsError: the class cannot be imported or called.
    """
    return [f"{where}.{name}" for name in inspect.signature(_locate(node, where)).parameters]


def _locate(node: Mapping[str, Any], where: str) -> Callable[..., Any]:
    path = node["_target_"]
    module_name, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"{where}._target_={path!r} cannot be imported ({error}). It must be the dotted path "
            "of a class or function that Python finds from here."
        ) from error
    require(callable(found), f"{where}._target_", path, "it should name a class or a function")
    return typing.cast(Callable[..., Any], found)


def _check_call(node: Mapping[str, Any], where: str) -> None:
    target = _locate(node, where)
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {key: value for key, value in node.items() if key not in _HYDRA_KEYS}
    for key, value in given.items():
        if value == "???":
            raise SettingsError(f"{where}.{key} has to be given: {where}.{key}=...")
        if key not in parameters:
            if open_ended:
                continue
            raise SettingsError(unknown_key(f"{where}.{key}", target_keys(node, where)))
        _check_value(_hint(target, key), value, f"{where}.{key}")
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in given]
    if missing and not node.get("_partial_"):
        raise SettingsError(
            f"{where} lacks {', '.join(missing)}, which {node['_target_']} needs: "
            f"give {where}.{missing[0]}=..."
        )


def _hint(target: Callable[..., Any], name: str) -> Any:
    call = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        return typing.get_type_hints(call).get(name, Any)
    except (NameError, TypeError):
        return Any  # an annotation that exists for type checkers only


def _check_value(hint: Any, value: Any, where: str) -> None:
    """Check numbers, texts and booleans; leave everything richer to the class itself."""
    if not isinstance(value, str | int | float | bool):
        return
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    if typing.get_origin(hint) is typing.Literal:
        choices = ", ".join(repr(choice) for choice in typing.get_args(hint))
        require(value in typing.get_args(hint), where, value, f"choose one of {choices}")
        return
    simple = [kind for kind in kinds if kind in _PLAIN]
    if len(simple) != len([kind for kind in kinds if kind is not types.NoneType]):
        return
    accepted = tuple(simple) + ((int,) if float in simple else ())
    fits = isinstance(value, accepted) and (not isinstance(value, bool) or bool in simple)
    require(fits, where, value, f"it must be {' or '.join(_PLAIN[kind] for kind in simple)}")


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
    plain = copy.deepcopy(composed)
    _put(plain, "model.system", record["system"])
    for key, (part, name) in keys.items():
        _put(plain, key, to_plain(getattr(getattr(trained, part), name)))

    said = {CHOICES.get(k, k) if isinstance(v, str) else k for k, v in overrides.items()}
    notes, refused = [], []
    for key in ("model.system", *keys):
        own, wanted = _get(plain, key), _get(composed, key)
        asked = any(key == name or key.startswith(f"{name}.") for name in said)
        if not asked or own == wanted or key in SETTLED:
            continue
        if (key in keys and may_change_after_training(*keys[key])) or (
            key == RANKS and own is None
        ):
            _put(plain, key, wanted)
            notes.append(f"Tested with {key}={_spell(wanted)}; the checkpoint has {_spell(own)}.")
        else:
            refused.append(f"{key}={_spell(wanted)} (the checkpoint has {_spell(own)})")
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
    found: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(words)):
        _collect(override.key_or_group, override.value(), found)
    return found


def _collect(key: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _collect(f"{key}.{name}", inner, found)
    else:
        found[key] = value


def _spell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace(" ", "")
