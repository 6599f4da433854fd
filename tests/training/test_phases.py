"""Phases are found by everything that went into them; the first process works for all."""

from datetime import timedelta
from pathlib import Path

import pytest

from rcnn.training.phases import INPUTS, FirstProcess, Phase, PhaseError, PhaseStore
from tests.training.toy import TwoProcesses

FIRST = Phase("1_rpn", {"seed": 0, "steps": 10})


@pytest.fixture
def store(tmp_path: Path) -> PhaseStore:
    return PhaseStore(tmp_path / "phases")


def test_a_stage_is_found_once_it_is_finished(store: PhaseStore) -> None:
    assert store.find(FIRST) is None
    folder = store.begin(FIRST)
    (folder / "product").write_text("weights")
    assert store.find(FIRST) is None
    assert (store.begin(FIRST) / "product").read_text() == "weights"  # as after an interruption
    assert store.finish(FIRST, 1.5) == store.find(FIRST) == store.folder / FIRST.key
    assert store.seconds(FIRST) == 1.5
    assert (store.folder / FIRST.key / "product").read_text() == "weights"
    assert not folder.exists()


@pytest.mark.parametrize(
    "other",
    [
        Phase("1_rpn", {"seed": 1, "steps": 10}),
        Phase("1_rpn", {"seed": 0, "steps": 11}),
        Phase("1_rpn", {"seed": 0, "steps": 10, "more": None}),
        Phase("1_rpn", {"seed": 0, "steps": 10}, [FIRST]),
        Phase("2_rpn", {"seed": 0, "steps": 10}),
    ],
)
def test_other_inputs_are_another_stage(store: PhaseStore, other: Phase) -> None:
    store.begin(FIRST)
    store.finish(FIRST, 1.0)
    assert store.find(other) is None


def test_a_stage_depends_on_all_that_came_before_it_and_on_no_order_of_inputs() -> None:
    def third(seed: int) -> Phase:
        first = Phase("1", {"seed": seed})
        return Phase("3", {"steps": 1}, [Phase("2", {"steps": 1}, [first])])

    assert third(0).key == third(0).key != third(1).key
    assert Phase("a", {"x": 1, "y": 2}).key == Phase("a", {"y": 2, "x": 1}).key


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_folder_that_something_else_has_touched_is_refused(
    store: PhaseStore, content: str | None
) -> None:
    store.begin(FIRST)
    record = store.finish(FIRST, 1.0) / INPUTS
    if content is None:
        record.unlink()
    else:
        record.write_text(content)
    with pytest.raises(PhaseError, match=r"1_rpn-.*scheme\.store"):
        store.find(FIRST)


# --- several processes ------------------------------------------------------------------------

HEAD = """
from datetime import timedelta
import time, torch
from rcnn.training.phases import FirstProcess, PhaseError
torch.distributed.init_process_group("gloo")
first = FirstProcess(timedelta(seconds=5))
"""


def test_one_process_does_everything_itself() -> None:
    first = FirstProcess(timedelta(seconds=1))
    assert first.does("some work", lambda: 3) == 3
    with pytest.raises(KeyError):
        first.does("some work", lambda: dict[int, int]()[0])


@pytest.mark.slow
def test_all_processes_get_what_the_first_one_made(two_processes: TwoProcesses) -> None:
    program = HEAD + "print([first.does('some work', lambda: (k, rank)) for k in range(2)])"
    for status, output in two_processes(program):
        assert status == 0, output
        assert "[(0, 0), (1, 0)]" in output.splitlines()  # beside what gloo prints


FAILURES = {
    "raises": "raise ValueError('the proposals are broken')",
    "is killed": "os.kill(os.getpid(), 9)",
    "hangs": "time.sleep(20)",
}


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
def test_the_failure_of_the_first_process_ends_the_other_one(
    failure: str, two_processes: TwoProcesses
) -> None:
    (_, own), (status, output) = two_processes(
        HEAD + f"def work():\n    {FAILURES[failure]}\nfirst.does('the proposals', work)\n"
    )
    assert status == 1
    (last,) = [line for line in output.splitlines() if "PhaseError: Rank" in line]
    assert "ank 0" in last
    assert "the proposals" in last
    if failure == "raises":
        assert "the proposals are broken" in last
        assert "ValueError: the proposals are broken" in own
