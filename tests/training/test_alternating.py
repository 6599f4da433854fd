"""Four steps, one network; killed and started again, the same network."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from rcnn.data import ShapesSource
from rcnn.data.splits import TrainingSource
from rcnn.data.stored import ProposalFiles
from rcnn.inference.checkpoint import read_checkpoint
from rcnn.model.backbones import LoadedWeights
from rcnn.model.settings import DetectorSettings
from rcnn.model.speed import SpeedSettings
from rcnn.training import DetectionDataModule, LoaderSettings
from rcnn.training.optim import AdamWCosine
from rcnn.training.schemes import AlternatingTraining
from rcnn.training.stages import Plan, StageError, StageRunner, StageStore

SOURCE = ShapesSource(train=4, val=0, test=2, size=64)
NAMES = ["1_rpn", "2_fast_rcnn", "3_rpn", "4_fast_rcnn"]


class KilledError(Exception):
    """What a test does to a run."""


class Fault(pl.Callback):
    """Does something to the module at the start of a step of a stage."""

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
        leads=True,
        speed=SpeedSettings(),
    )


def training(
    plan: Plan, store: Path, trained: list[str], faults: dict[str, Fault] | None = None
) -> AlternatingTraining:
    """Return a training of a few steps; ``trained`` gets the names of the steps it runs."""

    def make_trainer(name: str, folder: Path, steps: int) -> pl.Trainer:
        trained.append(name)
        keep = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
        fault = (faults or {}).get(name)
        return pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=-1,
            max_steps=steps,
            callbacks=[keep, fault] if fault else [keep],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )

    def make_data(folder: Path | None) -> DetectionDataModule:
        files = None if folder is None else ProposalFiles(str(folder))
        return DetectionDataModule(
            TrainingSource(SOURCE), LoaderSettings(workers=0), proposals=files
        )

    return AlternatingTraining(StageRunner(plan, StageStore(store), make_data, make_trainer))


@pytest.fixture(autouse=True)
def _no_val_is_no_news() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Total length of .* is zero")
        warnings.filterwarnings("ignore", "Checkpoint directory .* is not empty")
        warnings.filterwarnings("ignore", "Found .* module.* in eval mode")
        yield


def spent(store: Path) -> dict[str, float]:
    """Return the seconds of every stored step and of the proposals between them."""
    found = {path.parent.name: json.loads(path.read_text()) for path in store.glob("*/spent.json")}
    return {name: record["seconds"] for name, record in found.items()}


def product(store: Path, name: str) -> dict[str, torch.Tensor]:
    (folder,) = store.glob(f"{name}-*")
    return read_checkpoint(folder / "module.ckpt")["state_dict"]


@pytest.mark.slow
def test_the_result_has_each_part_from_the_step_that_learned_it(plan: Plan, tmp_path: Path) -> None:
    trained: list[str] = []
    merged = training(plan, tmp_path, trained).run().state_dict()
    assert trained == NAMES
    steps = {name: product(tmp_path, name) for name in NAMES}
    for name, tensor in merged.items():
        part = {"backbone": "2_fast_rcnn", "rpn": "3_rpn", "regions": "4_fast_rcnn"}[name.split(".")[1]]
        assert torch.equal(tensor, steps[part][name]), name
    # The convolutions are those of step 2 in 3 and 4, bit by bit; everything else has learned.
    backbone = [name for name in merged if name.startswith("detector.backbone.")]
    for later in ("3_rpn", "4_fast_rcnn"):
        assert all(torch.equal(steps[later][name], merged[name]) for name in backbone)
    head = "detector.roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(steps["2_fast_rcnn"][head], merged[head])
    assert not torch.equal(steps["1_rpn"][backbone[0]], merged[backbone[0]])


@pytest.mark.slow
def test_what_is_in_the_store_is_not_trained_again(plan: Plan, tmp_path: Path) -> None:
    before = training(plan, tmp_path, [])
    first = before.run().state_dict()
    trained: list[str] = []
    again = training(plan, tmp_path, trained)
    second = again.run().state_dict()
    assert trained == []
    assert all("found" in line for line in again.runner.log)
    # What is found counts as much as it took when it was made.
    assert again.runner.seconds == pytest.approx(before.runner.seconds)
    assert before.runner.seconds == pytest.approx(sum(spent(tmp_path).values()))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    # Other settings are other steps; those of another last step share the first three.
    longer = training(replace(plan, steps=(3, 3, 3, 4)), tmp_path, trained)
    longer.run()
    assert trained == ["4_fast_rcnn"]


def test_what_goes_into_a_step_is_in_its_name(plan: Plan, tmp_path: Path) -> None:
    def keys(plan: Plan) -> set[str]:
        run = training(plan, tmp_path, [])
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
    plan: Plan, tmp_path: Path, step: int
) -> None:
    """An epoch has two steps: once there is nothing to resume from, once a checkpoint."""

    def kill(module: Any) -> None:
        raise KilledError

    whole = training(plan, tmp_path / "whole", []).run().state_dict()
    with pytest.raises(KilledError):
        training(plan, tmp_path / "killed", [], {"3_rpn": Fault(step, kill)}).run()
    trained: list[str] = []
    anew: list[Any] = []
    run = training(plan, tmp_path / "killed", trained, {"3_rpn": Fault(0, anew.append)})
    resumed = run.run().state_dict()
    assert trained == ["3_rpn", "4_fast_rcnn"]
    assert bool(anew) == (step == 1)  # else it goes on behind the first epoch
    assert run.runner.seconds == pytest.approx(sum(spent(tmp_path / "killed").values()))
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.slow
def test_shared_convolutions_that_move_end_the_run(plan: Plan, tmp_path: Path) -> None:
    def move(module: Any) -> None:
        module.detector.backbone.conv1.weight.data[0, 0, 0, 0] += 1

    with pytest.raises(StageError, match=r"3_rpn has moved 1 of .*conv1\.weight"):
        training(plan, tmp_path, [], {"3_rpn": Fault(1, move)}).run()
    assert not list(tmp_path.glob("3_rpn-" + "?" * 12))


@pytest.mark.slow
def test_unshared_networks_are_the_first_two_steps(plan: Plan, tmp_path: Path) -> None:
    trained: list[str] = []
    run = training(plan, tmp_path, trained)
    module, folder = run.run_unshared(("test",))
    assert trained == NAMES[:2]
    assert module.system == "fast_rcnn"
    trains = [s for name, s in spent(tmp_path).items() if not name.startswith("1_test_proposals")]
    assert len(trains) == 3
    assert run.runner.seconds == pytest.approx(sum(trains))
    assert [path.name for path in folder.glob("*.proposals")] == ["test.proposals"]
    assert torch.equal(
        module.state_dict()["detector.backbone.conv1.weight"],
        product(tmp_path, "2_fast_rcnn")["detector.backbone.conv1.weight"],
    )


@pytest.mark.slow
def test_a_step_that_is_stopped_early_is_not_taken_for_finished(plan: Plan, tmp_path: Path) -> None:
    def stop(module: Any) -> None:
        module.trainer.should_stop = True

    with pytest.raises(StageError, match=r"1_rpn ended after 2 of 3 optimiser steps"):
        training(plan, tmp_path, [], {"1_rpn": Fault(1, stop)}).run()
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
