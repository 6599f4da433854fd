"""Charging the functions of a detector to stages."""

import pytest
import torch

from benchmarks.charging import BACKWARD, OPTIMISER, REST, STAGES, Part, charged, parts_of
from benchmarks.pairs import INFERENCE, STEP, set_task
from benchmarks.runtime import Runtime
from benchmarks.sides import Sides, Workload, build_sides
from rcnn.training.stopwatch import Stopwatch

CPU = torch.device("cpu")


class Kitchen:
    """Two dishes; the second takes the first along."""

    def __init__(self, now: list[float]) -> None:
        self.now = now

    def soup(self, seconds: float) -> str:
        self.now[0] += seconds
        return "soup"

    def menu(self) -> str:
        self.now[0] += 1
        return self.soup(seconds=5)


def test_a_stage_inside_another_one_is_charged_alone_and_the_methods_come_back() -> None:
    now = [0.0]
    kitchen = Kitchen(now)
    watch = Stopwatch(REST, CPU, lambda: now[0])
    parts = [Part(kitchen, "soup", "first"), Part(kitchen, "menu", "second")]
    with charged(parts, watch):
        assert kitchen.menu() == "soup"
        now[0] += 2
        watch.switch(REST)
    assert watch.seconds == {REST: 2, "first": 5, "second": 1}
    assert "soup" not in vars(kitchen)
    assert kitchen.menu() == "soup"
    assert watch.seconds["first"] == 5


def test_an_error_leaves_the_detector_as_it_was() -> None:
    kitchen = Kitchen([0.0])
    watch = Stopwatch(REST, CPU)
    with pytest.raises(TypeError), charged([Part(kitchen, "soup", "first")], watch):
        kitchen.soup("hot")
    assert vars(kitchen) == {"now": [0.0]}


@pytest.fixture(scope="module")
def sides() -> Sides:
    load = Workload("mobilenet_v3_large_fpn", (64, 96), classes=2, objects=1)
    return build_sides(load, Runtime(CPU))


@pytest.mark.parametrize("place", [0, 1])
def test_every_part_of_a_step_and_of_inference_is_called(sides: Sides, place: int) -> None:
    """A function that is renamed, or called past its charge, would count as rest."""
    side = sides[place]
    parts = parts_of(side.module)
    called: set[str] = set()

    class Listening(Stopwatch):
        def switch(self, part: str) -> str:
            called.add(part)
            return super().switch(part)

    with charged([part._replace(stage=part.name) for part in parts], Listening(REST, CPU)):
        for task, run in ((STEP, side.step), (INFERENCE, side.detect)):
            set_task(sides, task)
            run()
    assert called >= {part.name for part in parts}
    assert {part.stage for part in parts} >= set(STAGES) - {BACKWARD, OPTIMISER, REST}
