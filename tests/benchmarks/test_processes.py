"""Trainings in one process and in several."""

import argparse

import pytest

from benchmarks import processes
from benchmarks.pair import Row
from benchmarks.processes import Times


def measure(*words: str) -> list[Row]:
    parser = argparse.ArgumentParser()
    processes.add_arguments(parser)
    return processes.measure(parser.parse_args(words))


def test_speed_counts_the_images_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: object, arguments: tuple[object, ...], count: int) -> Times:
        assert arguments == ("c4", (600, 800), 8, 3 // count)
        return Times(0.5, 0.5) if count == 1 else Times(1.0, 0.75)

    monkeypatch.setattr(processes, "run_in_processes", run)
    one, three = measure("--runs", "c4", "--rounds", "2", "--processes", "3")
    assert (one["images/s"], one["step ms"], one["threads of each"]) == (4, 500, 3)
    assert (three["images/s"], three["step ms"], three["threads of each"]) == (6, 1000, 1)
    assert (three["exchange ms"], three["exchange %"], three["ratio"]) == (250, 25, 1.5)


@pytest.mark.slow
def test_steps_of_two_processes_are_timed() -> None:
    words = ["--runs", "c4", "--size", "64x96", "--rounds", "1", "--steps", "1"]
    one, two = measure(*words)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert all(float(row["images/s"]) > 0 for row in (one, two))
