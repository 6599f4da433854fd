"""The name of a step hangs on what changes its product, and on nothing else."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rcnn.app.config import parse
from rcnn.app.step_inputs import NO_INFLUENCE, step_inputs
from rcnn.data import ShapesSource
from rcnn.data.stored import ProposalWriter
from rcnn.model.backbones import LoadedWeights, resolve
from rcnn.model.settings import learned_with
from rcnn.training.datamodule import LoaderSettings

Compose = Callable[..., dict[str, Any]]
RANDOM = LoadedWeights("random", "for a test")
TRAIN = ShapesSource(train=2, val=1, test=1, size=64).dataset("train")


@pytest.fixture
def name(composed: Compose) -> Callable[..., str]:
    """Gives all that the name of a step is made of, but for its number of updates."""

    def function(*words: str, **how: Any) -> str:
        config = parse(composed("scheme=alternating", *words))
        given = {"train": TRAIN, "weights": RANDOM, "processes": 1} | how
        settings = config.settings(("thing",), resolve(config.detector["backbone"])[0])
        learned = learned_with(settings)
        return json.dumps([learned, step_inputs(config, **given)], sort_keys=True)

    return function


@pytest.mark.parametrize(
    "word",
    [
        *("loader.workers=0", "loader.cache_gib=2", "speed.channels_last=false"),
        *("speed.compile=true", "trainer.log_every_n_steps=3", "trainer.max_epochs=7"),
        *("trainer.devices=2", "trainer.check_val_every_n_epoch=2", "logger=none"),
        *("callbacks.progress=null", "callbacks.pictures.images=9", "proposals.folder=/else"),
        *("name=other", "run_dir=/else", "monitor=val/map_50", "plus_one=true"),
        *("thresholds.detection_score=0.3", "thresholds.detection_ablate_regression=true"),
        *("thresholds.proposal_after_nms_test=9", "images.test_scales=[100,160]"),
        *("sweep=schemes", "+callbacks.mine={_target_: rcnn.training.callbacks.Progress}"),
    ],
)
def test_what_changes_nothing_that_is_learned_is_not_in_it(
    word: str, name: Callable[..., str]
) -> None:
    assert name(word) == name()


@pytest.mark.parametrize(
    "word",
    [
        *("loader.batch_size=1", "loader.eval_batch_size=1", "loader.flip=0", "loader.seed=3"),
        *("loader.shorter_sides=[100]", "loader.group_by_aspect=false", "optimizer=sgd"),
        *("optimizer.lr=0.1", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1.0"),
        *("trainer.accumulate_grad_batches=2", "callbacks=ema", "proposals.limit=100"),
        *("thresholds.proposal_nms_iou=0.9", "thresholds.proposal_after_nms_train=9"),
        *("anchors=paper", "images.shorter_side=100", "model.losses.rpn_box_weight=2"),
    ],
)
def test_what_changes_what_is_learned_is_in_it(word: str, name: Callable[..., str]) -> None:
    assert name(word) != name()


def test_every_key_of_the_loader_is_in_it_unless_written_down() -> None:
    keys = {f"loader.{entry.name}" for entry in dataclasses.fields(LoaderSettings)}
    left_out = {pattern for pattern in NO_INFLUENCE if pattern.startswith("loader.")}
    assert left_out <= keys  # a key that is no more would stand there in vain
    assert left_out == {"loader.workers", "loader.cache_gib"}


def test_data_weights_and_processes_are_in_it(name: Callable[..., str]) -> None:
    other = ShapesSource(train=2, val=1, test=1, size=64, seed=1).dataset("train")
    loaded = LoadedWeights("file", "a file", {"x": torch.ones(2)})
    found = {name(), name(train=other), name(weights=loaded), name(processes=2)}
    assert len(found) == 4


def test_where_the_run_lies_is_not_in_it(composed: Compose) -> None:
    def inputs(run_dir: str, folder: str) -> dict[str, Any]:
        plain = composed("scheme=alternating")
        plain["run_dir"] = run_dir
        # Any class that takes a folder, as a callback of the user's own might.
        mine = {"_target_": "rcnn.data.stored.ProposalFiles", "folder": f"{run_dir}/{folder}"}
        plain["callbacks"]["mine"] = mine
        return step_inputs(parse(plain), TRAIN, RANDOM, 1)

    assert inputs("/a/b", "x") == inputs("/c", "x")
    assert inputs("/a/b", "x") != inputs("/a/b", "y")


def test_stored_proposals_are_in_it_by_what_they_hold(tmp_path: Path, composed: Compose) -> None:
    def inputs(folder: str, shift: float) -> dict[str, Any]:
        path = tmp_path / folder / "train.proposals"
        path.parent.mkdir()
        with ProposalWriter(path, TRAIN, "by hand") as writer:
            for image_id in TRAIN.image_ids:
                writer.add(image_id, torch.tensor([[shift, 0.0, 20.0, 30.0]]))
            writer.finish()
        words = ("model=fast_rcnn", f"proposals.folder={path.parent}")
        return step_inputs(parse(composed(*words)), TRAIN, RANDOM, 1)

    one = inputs("a", 0.0)
    assert one == inputs("b", 0.0)
    assert one != inputs("c", 5.0)
