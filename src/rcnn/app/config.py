"""The config at the door: every key known, every value of its type, before anything is loaded.

The parts that describe the detector become settings dataclasses, which are their schema. The parts
that name a class by ``_target_`` are held against the signature of that class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from rcnn.app.targets import check_targets
from rcnn.data.stored import ProposalFiles
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.build import needs_proposals, system_class
from rcnn.model.losses import LossSettings
from rcnn.model.postprocess import DetectionSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.model.speed import SpeedSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.report import read_plan
from rcnn.settings import SettingsError, from_plain, nearest, require
from rcnn.training.datamodule import LoaderSettings

THRESHOLDS = {
    "rpn": ("anchor_sampling", AnchorSampling),
    "proposal": ("proposals", ProposalSettings),
    "roi": ("roi_sampling", RoISampling),
    "detection": ("detections", DetectionSettings),
}
"""The flat keys of the group ``thresholds``: a prefix and a field of that stage's settings."""

TARGETS = ("data", "optimizer", "trainer", "logger", "callbacks")
"""The groups that name classes by ``_target_``."""


@dataclass(frozen=True)
class ModelConfig:
    """The group ``model``: which system, and the parts that no other group holds.

    Attributes:
        delta_statistics: by what box targets are normalised: the ``fixed`` numbers of ``deltas``,
            or the ``empirical`` mean and deviation of each class, measured on the training split.
    """

    system: str = "faster_rcnn"
    rpn: RPNSettings = field(default_factory=RPNSettings)
    box_predictor: BoxPredictorSettings = field(default_factory=BoxPredictorSettings)
    deltas: DeltaSettings = field(default_factory=DeltaSettings)
    warp: WarpSettings = field(default_factory=WarpSettings)
    losses: LossSettings = field(default_factory=LossSettings)
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


@dataclass(frozen=True)
class SchemeConfig:
    """The group ``scheme``: in what order the parts of the detector learn.

    Attributes:
        name: ``joint`` and ``exact`` are single trainings, see :mod:`rcnn.training.schemes`;
            ``alternating`` and ``unshared`` are trainings in steps, see
            :mod:`rcnn.training.schemes`, as is ``stage_wise``, see
            :mod:`rcnn.training.schemes`.
        shares: of the run's length that each step gets: four of ``alternating``, two of the others.
        store: the folder of the products of steps, shared by runs.
    """

    name: Literal["joint", "exact", "alternating", "unshared", "stage_wise"] = "joint"
    shares: tuple[float, ...] = ()
    store: str | None = None

    def __post_init__(self) -> None:
        if not self.in_steps:
            return
        count = 4 if self.name == "alternating" else 2
        usable = len(self.shares) == count and min(self.shares, default=0) > 0
        require(usable, "shares", self.shares, f"{count} numbers above 0, one for each step")
        require(self.store is not None, "store", self.store, "a folder")

    @property
    def in_steps(self) -> bool:
        """Whether there are several trainings."""
        return self.name in ("alternating", "unshared", "stage_wise")


@dataclass(frozen=True)
class RunConfig:
    """The part of the config that says what to do with the rest.

    Attributes:
        name: of the experiment; its runs lie in ``outputs/<name>``.
        run_dir: of this run.
        task: train (then test the best checkpoint), or test a checkpoint.
        ckpt_path: of the checkpoint to test, or to resume from.
        seed: of everything random.
        monitor: the validation metric that chooses the best checkpoint, and that a sweep gets;
            null where there is no validation split.
        plus_one: VOC's metric counts pixels inclusively, as its development kit does.
    """

    name: str
    run_dir: str
    task: Literal["train", "test"] = "train"
    ckpt_path: str | None = None
    seed: int = 0
    monitor: str | None = "val/map"
    plus_one: bool = False

    def __post_init__(self) -> None:
        usable = self.task == "train" or self.ckpt_path is not None
        require(usable, "ckpt_path", self.ckpt_path, "task=test needs a checkpoint")


@dataclass(frozen=True)
class Config:
    """A config that has passed the door.

    Attributes:
        run: what to do.
        system: which detector.
        scheme: in what order its parts learn.
        detector: its settings, but for the class names, which the data gives.
        delta_statistics: whether the data also gives the normalisation of box targets.
        loader: how minibatches are made.
        proposals: where those lie that the detector does not make itself.
        speed: how the detector is run.
        plain: the whole config as it was composed, resolved, for instantiation and the record.
    """

    run: RunConfig
    system: str
    scheme: SchemeConfig
    detector: dict[str, Any]
    delta_statistics: Literal["fixed", "empirical"]
    loader: LoaderSettings
    proposals: ProposalFiles
    speed: SpeedSettings
    plain: dict[str, Any]

    def settings(
        self, class_names: tuple[str, ...], backbone: BackboneSettings
    ) -> DetectorSettings:
        """Return the detector's settings for given classes and a settled backbone."""
        return DetectorSettings(class_names, **{**self.detector, "backbone": backbone})


def parse(plain: dict[str, Any]) -> Config:
    """Check a composed, resolved config.

    Raises:
        SettingsError: naming the key, the value, what is allowed, and the nearest valid key.
    """
    groups = {
        "images": ImageSettings,
        "backbone": BackboneSettings,
        "anchors": AnchorSettings,
        "pooling": PoolingSettings,
        "model": ModelConfig,
        "scheme": SchemeConfig,
        "loader": LoaderSettings,
        "proposals": ProposalFiles,
        "speed": SpeedSettings,
    }
    own = {entry.name for entry in fields(RunConfig)}
    known = [*groups, "thresholds", "sweep", *TARGETS, *own]
    for key in plain:
        if key not in known:
            raise SettingsError(
                f"Unknown key {key!r}{nearest(key, known)} Known keys: {', '.join(sorted(known))}."
            )
    missing = [key for key in known if key not in plain and (key in groups or key in TARGETS)]
    if missing:
        raise SettingsError(f"The config lacks {', '.join(missing)}.")

    run = from_plain(RunConfig, {key: plain[key] for key in plain if key in own})
    parts: dict[str, Any] = {key: from_plain(cls, plain[key], key) for key, cls in groups.items()}
    thresholds = _parse_thresholds(plain.get("thresholds", {}))
    for group in TARGETS:
        check_targets(plain[group], group)
    if plain.get("sweep") is not None:
        read_plan(plain["sweep"])
    model, loader, files = parts.pop("model"), parts.pop("loader"), parts.pop("proposals")
    scheme, speed = parts.pop("scheme"), parts.pop("speed")
    if needs_proposals(model.system) and files.folder is None:
        raise SettingsError(
            f"model={model.system} makes no proposals itself: give proposals.folder=<folder>, "
            "which holds train.proposals, val.proposals and test.proposals as `rcnn propose` makes "
            "them."
        )
    parts |= {
        key: getattr(model, key) for key in ("rpn", "box_predictor", "deltas", "warp", "losses")
    }
    return Config(
        run,
        model.system,
        scheme,
        parts | thresholds,
        model.delta_statistics,
        loader,
        files,
        speed,
        plain,
    )


def threshold_keys() -> dict[str, tuple[str, str]]:
    """Return every key of the group ``thresholds``, with its stage's prefix and field."""
    return {
        f"{prefix}_{entry.name}": (prefix, entry.name)
        for prefix, (_, cls) in THRESHOLDS.items()
        for entry in fields(cls)
    }


def _parse_thresholds(values: Mapping[str, Any]) -> dict[str, Any]:
    known = threshold_keys()
    stages: dict[str, dict[str, Any]] = {prefix: {} for prefix in THRESHOLDS}
    for key, value in values.items():
        if key not in known:
            raise SettingsError(
                f"Unknown key 'thresholds.{key}'"
                f"{nearest(f'thresholds.{key}', [f'thresholds.{name}' for name in known])} "
                f"Known keys: {', '.join(sorted(known))}."
            )
        prefix, name = known[key]
        stages[prefix][name] = value
    try:
        return {
            stage: from_plain(cls, stages[prefix], f"thresholds.{prefix}_")
            for prefix, (stage, cls) in THRESHOLDS.items()
        }
    except SettingsError as error:
        # The stage's key follows its prefix without a dot.
        raise SettingsError(str(error).replace("_.", "_", 1)) from None
