"""Stages are found by everything that went into them, and by nothing else."""

import threading
import time
from pathlib import Path

import pytest

from rcnn.training.stages import INPUTS, Stage, StageError, StageStore

FIRST = Stage("1_rpn", {"seed": 0, "steps": 10})


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "stages")


def test_a_stage_is_found_once_it_is_finished(store: StageStore) -> None:
    assert store.find(FIRST) is None
    folder = store.begin(FIRST)
    (folder / "product").write_text("weights")
    assert store.find(FIRST) is None
    assert store.finish(FIRST, 1.5) == store.find(FIRST) == store.folder / FIRST.key
    assert store.seconds(FIRST) == 1.5
    assert (store.folder / FIRST.key / "product").read_text() == "weights"
    assert not folder.exists()


def test_what_an_interrupted_run_left_is_still_there(store: StageStore) -> None:
    (store.begin(FIRST) / "last.ckpt").write_text("half way")
    assert (store.begin(FIRST) / "last.ckpt").read_text() == "half way"


@pytest.mark.parametrize(
    "other",
    [
        Stage("1_rpn", {"seed": 1, "steps": 10}),
        Stage("1_rpn", {"seed": 0, "steps": 11}),
        Stage("1_rpn", {"seed": 0, "steps": 10, "more": None}),
        Stage("1_rpn", {"seed": 0, "steps": 10}, [FIRST]),
        Stage("2_rpn", {"seed": 0, "steps": 10}),
    ],
)
def test_other_inputs_are_another_stage(store: StageStore, other: Stage) -> None:
    store.begin(FIRST)
    store.finish(FIRST, 1.0)
    assert store.find(other) is None


def test_a_stage_hangs_on_all_that_came_before_it() -> None:
    def third(seed: int) -> Stage:
        first = Stage("1", {"seed": seed})
        return Stage("3", {"steps": 1}, [Stage("2", {"steps": 1}, [first])])

    assert third(0).key == third(0).key != third(1).key


def test_the_order_of_inputs_does_not_matter() -> None:
    assert Stage("a", {"x": 1, "y": 2}).key == Stage("a", {"y": 2, "x": 1}).key


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_folder_that_something_else_has_touched_is_refused(
    store: StageStore, content: str | None
) -> None:
    store.begin(FIRST)
    record = store.finish(FIRST, 1.0) / INPUTS
    if content is None:
        record.unlink()
    else:
        record.write_text(content)
    with pytest.raises(StageError, match=r"1_rpn-.*other settings.*scheme\.store"):
        store.find(FIRST)


def test_another_process_is_waited_for(store: StageStore) -> None:
    def work() -> None:
        time.sleep(0.2)
        store.finish(FIRST, 1.0)

    store.begin(FIRST)
    worker = threading.Thread(target=work)
    worker.start()
    assert store.wait(FIRST, seconds=0.02) == store.find(FIRST)
    worker.join()
