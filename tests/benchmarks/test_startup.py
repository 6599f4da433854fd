"""Commands in processes of their own, and the first step of a run."""

from subprocess import CalledProcessError

import pytest

from benchmarks.startup import time_command, time_first_step


def test_a_command_is_timed_and_its_failure_is_an_error() -> None:
    seconds, own = time_command(["-c", ""])
    assert seconds > 0
    assert own >= 0
    with pytest.raises(CalledProcessError):
        time_command(["-c", "raise SystemExit(3)"])


@pytest.mark.slow
def test_the_first_step_of_a_run_is_timed() -> None:
    words = ["data.train=2", "data.val=2", "data.test=2", "data.size=64", "loader.workers=0"]
    sides = ["images.shorter_side=64", "images.longer_side=64"]
    seconds, own = time_first_step([*words, *sides])
    assert seconds > 0
    assert own > 0
