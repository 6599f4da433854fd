"""Trainings in phases: which phase learns what, and what a run that was killed ends in."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from rcnn.data import DataSource, ShapesSource
from rcnn.data.proposals import ProposalFiles
from rcnn.data.splits import TrainingSource
from rcnn.inference.checkpoint import read_checkpoint
from rcnn.model.backbones import LoadedWeights
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.speed import SpeedSettings
from rcnn.settings import SettingsError
from rcnn.structures import Proposals
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.evaluate import evaluate
from rcnn.training.optim import AdamWCosine
from rcnn.training.phases import PhaseError, PhaseRunner, PhaseStore
from rcnn.training.schemes import (
    BOX_REGRESSION,
    first_phases,
    train_alternating,
    train_stage_wise,
    train_unshared,
)
from tests.training.toy import MakeTrainer

SOURCE = ShapesSource(train=4, val=0, test=2, size=64)
ONE_CLASS = ShapesSource(train=4, val=0, test=2, size=64, class_names=("circle",))
NAMES = ["1_rpn", "2_fast_rcnn", "3_rpn", "4_fast_rcnn"]
MakeRunner = Callable[..., PhaseRunner]


class KilledError(Exception):
    """What a test does to a run."""


class Fault(pl.Callback):
    """Does something to the module at the start of a step of a phase."""

    def __init__(self, step: int, action: Callable[[Any], None]) -> None:
        self.step = step
        self.action = action

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            self.action(pl_module)


@pytest.fixture
def runner(settings: DetectorSettings, trainer: MakeTrainer, tmp_path: Path) -> MakeRunner:
    """Makes runners of a few steps; ``trained`` gets the names of the phases that are run."""

    def make(
        trained: list[str] | None = None,
        faults: dict[str, Fault] | None = None,
        given: Path | None = None,
        store: str = "phases",
        **changes: Any,
    ) -> PhaseRunner:
        own = changes.get("settings", settings)

        def make_trainer(name: str, folder: Path, steps: int) -> pl.Trainer:
            if trained is not None:
                trained.append(name)
            keep = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
            fault = [faults[name]] if faults and name in faults else []
            options = {"max_epochs": -1, "max_steps": steps, "enable_checkpointing": True}
            return trainer(keep, *fault, **options)

        def make_data(folder: Path | None) -> DetectionDataModule:
            folder = folder or given
            files = None if folder is None else ProposalFiles(str(folder))
            one_class = own.class_names == ONE_CLASS.class_names
            source = TrainingSource(ONE_CLASS if one_class else SOURCE)
            return DetectionDataModule(source, LoaderSettings(workers=0), proposals=files)

        defaults: dict[str, Any] = {
            "settings": settings,
            "recipe": AdamWCosine(warmup_steps=1),
            "weights": LoadedWeights("random", "for a test"),
            "steps": (3, 3, 3, 3),
            "seed": 0,
            "inputs": {},
        }
        return PhaseRunner(
            **(defaults | changes),
            plus_one=False,
            device=torch.device("cpu"),
            speed=SpeedSettings(),
            store=PhaseStore(tmp_path / store),
            make_data=make_data,
            make_trainer=make_trainer,
        )

    return make


def spent(runner: PhaseRunner) -> dict[str, float]:
    """Return the seconds of every stored phase and of the proposals between them."""
    files = runner.store.folder.glob("*/spent.json")
    return {path.parent.name: json.loads(path.read_text())["seconds"] for path in files}


def product(runner: PhaseRunner, name: str) -> dict[str, Tensor]:
    (folder,) = runner.store.folder.glob(f"{name}-*")
    state: dict[str, Tensor] = read_checkpoint(folder / "module.ckpt")["state_dict"]
    return state


# --- alternating and unshared -----------------------------------------------------------------


@pytest.mark.slow
def test_the_result_has_each_part_from_the_phase_that_learned_it(runner: MakeRunner) -> None:
    trained: list[str] = []
    first = runner(trained)
    merged = train_alternating(first).state_dict()
    assert trained == NAMES
    phases = {name: product(first, name) for name in NAMES}
    learned_in = {"backbone": NAMES[1], "rpn": NAMES[2], "roi_heads": NAMES[3]}
    for name, tensor in merged.items():
        assert torch.equal(tensor, phases[learned_in[name.split(".")[1]]][name]), name
    # The convolutions are those of phase 2 in 3 and 4, bit by bit; everything else has learned.
    backbone = [name for name in merged if name.startswith("detector.backbone.")]
    for later in NAMES[2:]:
        assert all(torch.equal(phases[later][name], merged[name]) for name in backbone)
    head = "detector.roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(phases["2_fast_rcnn"][head], merged[head])
    assert not torch.equal(phases["1_rpn"][backbone[0]], merged[backbone[0]])

    # What is in the store is not trained again, and counts as much time as it took.
    trained.clear()
    again = runner(trained)
    second = train_alternating(again).state_dict()
    assert trained == []
    assert all("found" in line for line in again.log)
    assert again.seconds == pytest.approx(first.seconds)
    assert first.seconds == pytest.approx(sum(spent(first).values()))
    assert all(torch.equal(second[name], tensor) for name, tensor in merged.items())
    # A longer last phase shares the first three.
    train_alternating(runner(trained, steps=(3, 3, 3, 4)))
    assert trained == ["4_fast_rcnn"]


def test_what_goes_into_a_phase_is_in_its_name(
    runner: MakeRunner, settings: DetectorSettings
) -> None:
    def keys(**changes: Any) -> set[str]:
        return {phase.key for phase in first_phases(runner(**changes))}

    for changes in (
        {"settings": replace(settings, losses=replace(settings.losses, rpn_box_weight=3.0))},
        {"seed": 1},
        {"inputs": {"data": "other"}},
        {"weights": LoadedWeights("file", "for a test")},
        {"steps": (4, 3, 3, 3)},
    ):
        assert not keys() & keys(**changes)
    fewer = replace(settings, detections=replace(settings.detections, per_image=7))
    assert keys() == keys(settings=fewer)  # which only matters at test


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2])
def test_a_run_killed_in_phase_three_ends_as_if_it_had_not_been(
    step: int, runner: MakeRunner
) -> None:
    """An epoch has two steps: once there is nothing to resume from, once a checkpoint."""

    def kill(module: Any) -> None:
        raise KilledError

    whole = train_alternating(runner(store="whole")).state_dict()
    with pytest.raises(KilledError):
        train_alternating(runner(faults={"3_rpn": Fault(step, kill)}))
    trained: list[str] = []
    restarted: list[Any] = []
    run = runner(trained, {"3_rpn": Fault(0, restarted.append)})
    resumed = train_alternating(run).state_dict()
    assert trained == ["3_rpn", "4_fast_rcnn"]
    assert bool(restarted) == (step == 1)  # otherwise it goes on behind the first epoch
    assert run.seconds == pytest.approx(sum(spent(run).values()))
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.slow
def test_shared_convolutions_that_move_end_the_run(runner: MakeRunner) -> None:
    def move(module: Any) -> None:
        module.detector.backbone.conv1.weight.data[0, 0, 0, 0] += 1

    run = runner(faults={"3_rpn": Fault(1, move)})
    with pytest.raises(PhaseError, match=r"3_rpn has moved 1 of .*conv1\.weight"):
        train_alternating(run)
    assert not list(run.store.folder.glob("3_rpn-" + "?" * 12))


@pytest.mark.slow
def test_unshared_networks_are_the_first_two_phases(runner: MakeRunner) -> None:
    trained: list[str] = []
    run = runner(trained)
    module, folder = train_unshared(run, ("test",))
    assert trained == NAMES[:2]
    assert module.system == "fast_rcnn"
    trains = [s for name, s in spent(run).items() if not name.startswith("1_test_proposals")]
    assert len(trains) == 3
    assert run.seconds == pytest.approx(sum(trains))
    assert [path.name for path in folder.glob("*.safetensors")] == ["test.safetensors"]
    name = "detector.backbone.conv1.weight"
    assert torch.equal(module.state_dict()[name], product(run, "2_fast_rcnn")[name])


@pytest.mark.slow
def test_one_class_is_trained_in_any_number_of_phases(
    runner: MakeRunner, settings: DetectorSettings
) -> None:
    one = replace(settings, class_names=("circle",))
    data = DetectionDataModule(ONE_CLASS, LoaderSettings(workers=0))
    for module in (
        train_alternating(runner(settings=one, steps=(1, 1, 1, 1))),
        train_stage_wise(runner(settings=one, steps=(1, 1)), "faster_rcnn"),
    ):
        found = evaluate(module, data.dataset("test"), workers=0)
        assert set(found.per_class) == {"circle"}
        assert found.metrics["test/map"] == pytest.approx(found.per_class["circle"]["map"])


def test_a_phase_that_is_stopped_early_is_not_taken_for_finished(runner: MakeRunner) -> None:
    def stop(module: Any) -> None:
        module.trainer.should_stop = True

    run = runner(faults={"1_rpn": Fault(1, stop)})
    with pytest.raises(PhaseError, match=r"1_rpn ended after 2 of 3 optimiser steps"):
        train_alternating(run)
    assert [path.suffix for path in run.store.folder.iterdir()] == [".partial"]


# --- stage-wise -------------------------------------------------------------------------------


@pytest.fixture
def small(settings: DetectorSettings) -> dict[str, Any]:
    """A backbone with norms that count and a dropout, neither of which may act in phase 2."""
    backbone = replace(settings.backbone, box_head="two_mlp", hidden=16, dropout=0.5)
    return {"settings": replace(settings, backbone=backbone), "steps": (3, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("system", ["fast_rcnn", "faster_rcnn"])
def test_the_second_phase_learns_boxes_and_moves_nothing_else(
    system: str,
    small: dict[str, Any],
    propose: Callable[[DataSource], Path],
    runner: MakeRunner,
) -> None:
    given = None
    if system == "fast_rcnn":
        given = propose(ShapesSource(train=4, val=1, test=2, size=64))
    run = runner(given=given, **small)
    last = train_stage_wise(run, system)
    (path,) = run.store.folder.glob("1_classes-*/module.ckpt")
    first = DetectionModule.load_from_checkpoint(path)
    assert not first.settings.box_predictor.box_regression
    learned = last.state_dict()
    kept = {name for name in learned if not name.startswith(BOX_REGRESSION)}
    assert kept == set(first.state_dict())
    for name, tensor in first.state_dict().items():
        assert torch.equal(learned[name], tensor), name
    assert learned[f"{BOX_REGRESSION}bias"].any()  # biases start at 0

    # Each RoI has the class scores of the first step, and boxes beside them.
    image = SOURCE.dataset("test")[0].image
    rois = torch.tensor([[4.0, 5.0, 40.0, 30.0], [10.0, 20.0, 50.0, 60.0]])
    outputs = []
    for module in (first, last):
        detector: Any = module.eval().detector
        batch = detector.transform.batch([image])
        boxes = Proposals.pad([rois], batch.scales).boxes
        outputs.append(detector.roi_heads.predict(detector.extract_features(batch), boxes))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert outputs[0].deltas is None
    assert outputs[1].deltas is not None


@pytest.mark.slow
def test_what_moves_the_rest_ends_the_run(small: dict[str, Any], runner: MakeRunner) -> None:
    def move(module: Any) -> None:
        module.state_dict()["detector.roi_heads.box_predictor.cls_score.bias"].add_(1)

    run = runner(faults={"2_boxes": Fault(0, move)}, **small)
    with pytest.raises(PhaseError, match=r"2_boxes has moved 1 of .*cls_score\.bias"):
        train_stage_wise(run, "faster_rcnn")
    assert not list(run.store.folder.glob("2_boxes-" + "?" * 12))


@pytest.mark.parametrize(("system", "boxes"), [("rpn", True), ("faster_rcnn", False)])
def test_without_boxes_to_learn_there_are_no_two_phases(
    system: str, boxes: bool, settings: DetectorSettings, runner: MakeRunner
) -> None:
    settings = replace(settings, box_predictor=BoxPredictorSettings(box_regression=boxes))
    with pytest.raises(SettingsError, match=r"scheme='stage_wise'.*box_regression=true"):
        train_stage_wise(runner(settings=settings), system)
