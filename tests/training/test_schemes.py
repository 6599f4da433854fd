"""Trainings in phases: which step learns what, and what a run that was killed ends in."""

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
from rcnn.training.phases import PhaseError, PhaseRunner, PhaseStore, Plan
from rcnn.training.schemes import BOX_REGRESSION, AlternatingTraining, train_stage_wise
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
def plan(settings: DetectorSettings) -> Plan:
    return Plan(
        settings=settings,
        recipe=AdamWCosine(warmup_steps=1),
        weights=LoadedWeights("random", "for a test"),
        steps=(3, 3, 3, 3),
        seed=0,
        inputs={},
        plus_one=False,
        device=torch.device("cpu"),
        speed=SpeedSettings(),
    )


@pytest.fixture
def runner(trainer: MakeTrainer) -> MakeRunner:
    """Makes runners of a few steps; ``trained`` gets the names of the steps that are run."""

    def make(
        plan: Plan,
        store: Path,
        trained: list[str] | None = None,
        faults: dict[str, Fault] | None = None,
        given: Path | None = None,
    ) -> PhaseRunner:
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
            one_class = plan.settings.class_names == ONE_CLASS.class_names
            source = TrainingSource(ONE_CLASS if one_class else SOURCE)
            return DetectionDataModule(source, LoaderSettings(workers=0), proposals=files)

        return PhaseRunner(plan, PhaseStore(store), make_data, make_trainer)

    return make


def spent(store: Path) -> dict[str, float]:
    """Return the seconds of every stored step and of the proposals between them."""
    found = {path.parent.name: json.loads(path.read_text()) for path in store.glob("*/spent.json")}
    return {name: record["seconds"] for name, record in found.items()}


def product(store: Path, name: str) -> dict[str, Tensor]:
    (folder,) = store.glob(f"{name}-*")
    state: dict[str, Tensor] = read_checkpoint(folder / "module.ckpt")["state_dict"]
    return state


# --- alternating and unshared -----------------------------------------------------------------


@pytest.mark.slow
def test_the_result_has_each_part_from_the_step_that_learned_it(
    plan: Plan, tmp_path: Path, runner: MakeRunner
) -> None:
    trained: list[str] = []
    first = AlternatingTraining(runner(plan, tmp_path, trained))
    merged = first.run().state_dict()
    assert trained == NAMES
    steps = {name: product(tmp_path, name) for name in NAMES}
    learned_in = {"backbone": NAMES[1], "rpn": NAMES[2], "roi_heads": NAMES[3]}
    for name, tensor in merged.items():
        assert torch.equal(tensor, steps[learned_in[name.split(".")[1]]][name]), name
    # The convolutions are those of step 2 in 3 and 4, bit by bit; everything else has learned.
    backbone = [name for name in merged if name.startswith("detector.backbone.")]
    for later in NAMES[2:]:
        assert all(torch.equal(steps[later][name], merged[name]) for name in backbone)
    head = "detector.roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(steps["2_fast_rcnn"][head], merged[head])
    assert not torch.equal(steps["1_rpn"][backbone[0]], merged[backbone[0]])

    # What is in the store is not trained again, and counts as much time as it took.
    trained.clear()
    again = AlternatingTraining(runner(plan, tmp_path, trained))
    second = again.run().state_dict()
    assert trained == []
    assert all("found" in line for line in again.runner.log)
    assert again.runner.seconds == pytest.approx(first.runner.seconds)
    assert first.runner.seconds == pytest.approx(sum(spent(tmp_path).values()))
    assert all(torch.equal(second[name], tensor) for name, tensor in merged.items())
    # A longer last step shares the first three.
    AlternatingTraining(runner(replace(plan, steps=(3, 3, 3, 4)), tmp_path, trained)).run()
    assert trained == ["4_fast_rcnn"]


def test_what_goes_into_a_step_is_in_its_name(
    plan: Plan, tmp_path: Path, runner: MakeRunner
) -> None:
    def keys(plan: Plan) -> set[str]:
        run = AlternatingTraining(runner(plan, tmp_path))
        return {run.rpn1.key, run.proposals1.key, run.fast2.key}

    own, settings = keys(plan), plan.settings
    other_losses = replace(settings, losses=replace(settings.losses, rpn_box_weight=3.0))
    for other in (
        replace(plan, settings=other_losses),
        replace(plan, seed=1),
        replace(plan, inputs={"data": "other"}),
        replace(plan, weights=LoadedWeights("file", "for a test")),
        replace(plan, steps=(4, 3, 3, 3)),
    ):
        assert not own & keys(other)
    fewer = replace(settings, detections=replace(settings.detections, per_image=7))
    assert own == keys(replace(plan, settings=fewer))  # which only matters at test


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2])
def test_a_run_killed_in_step_three_ends_as_if_it_had_not_been(
    plan: Plan, tmp_path: Path, step: int, runner: MakeRunner
) -> None:
    """An epoch has two steps: once there is nothing to resume from, once a checkpoint."""

    def kill(module: Any) -> None:
        raise KilledError

    whole = AlternatingTraining(runner(plan, tmp_path / "whole")).run().state_dict()
    killed = tmp_path / "killed"
    with pytest.raises(KilledError):
        AlternatingTraining(runner(plan, killed, faults={"3_rpn": Fault(step, kill)})).run()
    trained: list[str] = []
    restarted: list[Any] = []
    faults = {"3_rpn": Fault(0, restarted.append)}
    run = AlternatingTraining(runner(plan, killed, trained, faults))
    resumed = run.run().state_dict()
    assert trained == ["3_rpn", "4_fast_rcnn"]
    assert bool(restarted) == (step == 1)  # otherwise it goes on behind the first epoch
    assert run.runner.seconds == pytest.approx(sum(spent(killed).values()))
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.slow
def test_shared_convolutions_that_move_end_the_run(
    plan: Plan, tmp_path: Path, runner: MakeRunner
) -> None:
    def move(module: Any) -> None:
        module.detector.backbone.conv1.weight.data[0, 0, 0, 0] += 1

    with pytest.raises(PhaseError, match=r"3_rpn has moved 1 of .*conv1\.weight"):
        AlternatingTraining(runner(plan, tmp_path, faults={"3_rpn": Fault(1, move)})).run()
    assert not list(tmp_path.glob("3_rpn-" + "?" * 12))


@pytest.mark.slow
def test_unshared_networks_are_the_first_two_steps(
    plan: Plan, tmp_path: Path, runner: MakeRunner
) -> None:
    trained: list[str] = []
    run = AlternatingTraining(runner(plan, tmp_path, trained))
    module, folder = run.run_unshared(("test",))
    assert trained == NAMES[:2]
    assert module.system == "fast_rcnn"
    trains = [s for name, s in spent(tmp_path).items() if not name.startswith("1_test_proposals")]
    assert len(trains) == 3
    assert run.runner.seconds == pytest.approx(sum(trains))
    assert [path.name for path in folder.glob("*.safetensors")] == ["test.safetensors"]
    name = "detector.backbone.conv1.weight"
    assert torch.equal(module.state_dict()[name], product(tmp_path, "2_fast_rcnn")[name])


@pytest.mark.slow
def test_one_class_is_trained_in_any_number_of_steps(
    plan: Plan, tmp_path: Path, runner: MakeRunner
) -> None:
    plan = replace(
        plan, settings=replace(plan.settings, class_names=("circle",)), steps=(1, 1, 1, 1)
    )
    data = DetectionDataModule(ONE_CLASS, LoaderSettings(workers=0))
    for module in (
        AlternatingTraining(runner(plan, tmp_path)).run(),
        train_stage_wise(runner(replace(plan, steps=(1, 1)), tmp_path), "faster_rcnn"),
    ):
        found = evaluate(module, data.dataset("test"), workers=0)
        assert set(found.per_class) == {"circle"}
        assert found.metrics["test/map"] == pytest.approx(found.per_class["circle"]["map"])


def test_a_step_that_is_stopped_early_is_not_taken_for_finished(
    plan: Plan, tmp_path: Path, runner: MakeRunner
) -> None:
    def stop(module: Any) -> None:
        module.trainer.should_stop = True

    with pytest.raises(PhaseError, match=r"1_rpn ended after 2 of 3 optimiser steps"):
        AlternatingTraining(runner(plan, tmp_path, faults={"1_rpn": Fault(1, stop)})).run()
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]


# --- stage-wise -------------------------------------------------------------------------------


@pytest.fixture
def small(plan: Plan) -> Plan:
    """A backbone with norms that count and a dropout, neither of which may act in step 2."""
    backbone = replace(plan.settings.backbone, box_head="two_mlp", hidden=16, dropout=0.5)
    return replace(plan, settings=replace(plan.settings, backbone=backbone), steps=(3, 2))


@pytest.mark.slow
@pytest.mark.parametrize("system", ["fast_rcnn", "faster_rcnn"])
def test_the_second_step_learns_boxes_and_moves_nothing_else(
    system: str,
    small: Plan,
    tmp_path: Path,
    propose: Callable[[DataSource], Path],
    runner: MakeRunner,
) -> None:
    given = None
    if system == "fast_rcnn":
        given = propose(ShapesSource(train=4, val=1, test=2, size=64))
    store = tmp_path / "phases"
    last = train_stage_wise(runner(small, store, given=given), system)
    (path,) = store.glob("1_classes-*/module.ckpt")
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
def test_what_moves_the_rest_ends_the_run(small: Plan, tmp_path: Path, runner: MakeRunner) -> None:
    def move(module: Any) -> None:
        module.state_dict()["detector.roi_heads.box_predictor.cls_score.bias"].add_(1)

    run = runner(small, tmp_path, faults={"2_boxes": Fault(0, move)})
    with pytest.raises(PhaseError, match=r"2_boxes has moved 1 of .*cls_score\.bias"):
        train_stage_wise(run, "faster_rcnn")
    assert not list(tmp_path.glob("2_boxes-" + "?" * 12))


@pytest.mark.parametrize(("system", "boxes"), [("rpn", True), ("faster_rcnn", False)])
def test_without_boxes_to_learn_there_are_no_two_steps(
    system: str, boxes: bool, small: Plan, tmp_path: Path, runner: MakeRunner
) -> None:
    predictor = BoxPredictorSettings(box_regression=boxes)
    plan = replace(small, settings=replace(small.settings, box_predictor=predictor))
    with pytest.raises(SettingsError, match=r"scheme='stage_wise'.*box_regression=true"):
        train_stage_wise(runner(plan, tmp_path), system)
