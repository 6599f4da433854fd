"""How the steps of a run share its length, and which keys the fingerprints of steps count."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rcnn.app.config import parse
from rcnn.app.phases import NO_INFLUENCE, phase_fingerprint, share_out
from rcnn.data import ShapesSource
from rcnn.data.proposal_writer import ProposalWriter
from rcnn.model.backbones import LoadedWeights, resolve
from rcnn.model.settings import training_settings
from rcnn.training.datamodule import LoaderSettings

Compose = Callable[..., dict[str, Any]]
RANDOM = LoadedWeights("random", "for a test")
TRAIN = ShapesSource(train=2, val=1, test=1, size=64).dataset("train")


@pytest.mark.parametrize(
    ("total", "shares", "steps"),
    [
        (450, (0.2, 0.5, 0.15, 0.15), (90, 225, 67, 68)),  # 67.5 each: rounded alone, one too many
        (7, (0.5, 0.5), (4, 3)),
        (450, (1.0, 1.0), (450, 450)),
        (2, (0.2, 0.5, 0.15, 0.15), (1, 1, 1, 1)),
    ],
)
def test_steps_take_their_shares_of_the_run(
    total: int, shares: tuple[float, ...], steps: tuple[int, ...]
) -> None:
    assert share_out(total, shares) == steps


@pytest.mark.parametrize("total", range(20, 700, 7))
def test_no_step_of_a_run_is_lost_or_added(total: int) -> None:
    assert sum(share_out(total, (0.2, 0.5, 0.15, 0.15))) == total


@pytest.fixture
def name(composed: Compose) -> Callable[..., str]:
    """Gives all that the fingerprint of a step is made of, but for its number of steps."""

    def function(*words: str, **how: Any) -> str:
        config = parse(composed("scheme=alternating", *words))
        given: dict[str, Any] = {"train": TRAIN, "weights": RANDOM, "processes": 1} | how
        settings = config.settings(("thing",), resolve(config.detector["backbone"])[0])
        learned = training_settings(settings)
        return json.dumps([learned, phase_fingerprint(config, **given)], sort_keys=True)

    return function


@pytest.mark.parametrize(
    "word",
    [
        *("loader.workers=0", "speed.channels_last=false"),
        *("speed.compile=true", "trainer.log_every_n_steps=3", "trainer.max_epochs=7"),
        *("trainer.devices=2", "trainer.check_val_every_n_epoch=2", "logger=none"),
        *("callbacks.progress=null", "callbacks.pictures.images=9", "proposals.folder=/else"),
        *("name=other", "run_dir=/else", "monitor=val/map_50", "plus_one=true"),
        *("thresholds.detection_score=0.3", "thresholds.detection_ablate_regression=true"),
        *("thresholds.proposal_after_nms_test=9", "images.test_scales=[100,160]"),
        *("sweep=schemes", "+callbacks.mine={_target_: rcnn.training.callbacks.Progress}"),
    ],
)
def test_what_changes_nothing_that_is_learned_does_not_count(
    word: str, name: Callable[..., str]
) -> None:
    assert name(word) == name()


@pytest.mark.parametrize(
    "word",
    [
        *("loader.batch_size=1", "loader.eval_batch_size=1", "augment.flip=0", "loader.seed=3"),
        *("augment=strong", "loader.group_by_aspect=false", "optimizer=sgd"),
        *("optimizer.lr=0.1", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1.0"),
        *("trainer.accumulate_grad_batches=2", "callbacks=ema", "proposals.limit=100"),
        *("thresholds.proposal_nms_iou=0.9", "thresholds.proposal_after_nms_train=9"),
        *("anchors=paper", "images.shorter_side=100", "model.losses.rpn_box_weight=2"),
    ],
)
def test_what_changes_what_is_learned_counts(word: str, name: Callable[..., str]) -> None:
    assert name(word) != name()


def test_every_key_of_the_loader_counts_unless_it_is_listed() -> None:
    keys = {f"loader.{entry.name}" for entry in dataclasses.fields(LoaderSettings)}
    left_out = {pattern for pattern in NO_INFLUENCE if pattern.startswith("loader.")}
    assert left_out <= keys
    assert left_out == {"loader.workers"}


def test_data_weights_and_processes_count(name: Callable[..., str]) -> None:
    other = ShapesSource(train=2, val=1, test=1, size=64, seed=1).dataset("train")
    loaded = LoadedWeights("file", "a file", {"x": torch.ones(2)})
    found = {name(), name(train=other), name(weights=loaded), name(processes=2)}
    assert len(found) == 4


def test_the_folder_of_the_run_does_not_count(composed: Compose) -> None:
    def inputs(run_dir: str, folder: str) -> dict[str, Any]:
        plain = composed("scheme=alternating")
        plain["run_dir"] = run_dir
        # Any class that takes a folder, as a callback of the user's own might.
        mine = {"_target_": "rcnn.data.proposals.ProposalFiles", "folder": f"{run_dir}/{folder}"}
        plain["callbacks"]["mine"] = mine
        return phase_fingerprint(parse(plain), TRAIN, RANDOM, 1)

    assert inputs("/a/b", "x") == inputs("/c", "x")
    assert inputs("/a/b", "x") != inputs("/a/b", "y")


def test_stored_proposals_count_by_what_they_hold(tmp_path: Path, composed: Compose) -> None:
    def inputs(folder: str, shift: float) -> dict[str, Any]:
        path = tmp_path / folder / "train.safetensors"
        path.parent.mkdir()
        with ProposalWriter(path, TRAIN, "by hand") as writer:
            for image_id in TRAIN.image_ids:
                writer.add(image_id, torch.tensor([[shift, 0.0, 20.0, 30.0]]))
            writer.finish()
        words = ("model=fast_rcnn", f"proposals.folder={path.parent}")
        return phase_fingerprint(parse(composed(*words)), TRAIN, RANDOM, 1)

    one = inputs("a", 0.0)
    assert one == inputs("b", 0.0)
    assert one != inputs("c", 5.0)
