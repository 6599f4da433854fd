"""Both sides in turn, and what is said of their times."""

from dataclasses import dataclass, field

import pytest
import torch

from benchmarks.pairs import Plan, Times, interleave, plan_for, quartiles
from benchmarks.runtime import Runtime


@dataclass(frozen=True)
class Clock(Runtime):
    """A runtime whose clock goes on by as much as each action says."""

    device: torch.device = torch.device("cpu")  # noqa: RUF009
    now: list[float] = field(default_factory=lambda: [0.0])
    order: list[str] = field(default_factory=list)

    def seconds(self) -> float:
        return self.now[0]

    def action(self, name: str, seconds: float) -> None:
        self.order.append(name)
        self.now[0] += seconds


def test_pairs_are_run_forth_and_back_after_the_warm_up() -> None:
    clock = Clock()
    plan = Plan(warm_up=2, pairs=3)
    interleave(lambda: clock.action("A", 1), lambda: clock.action("B", 1), clock, plan)
    assert "".join(clock.order) == "ABAB" + "AB" + "BA" + "AB"


def test_each_side_is_charged_with_its_own_time() -> None:
    clock = Clock()
    plan = Plan(warm_up=1, pairs=2, runs=3)
    times = interleave(
        lambda: clock.action("A", 0.002), lambda: clock.action("B", 0.01), clock, plan
    )
    assert times.ours == pytest.approx([2, 2])
    assert times.theirs == pytest.approx([10, 10])
    assert "".join(clock.order) == "AB" + "AAABBB" + "BBBAAA"


def test_the_ratio_is_the_median_of_the_paired_ratios() -> None:
    """A machine that slows both sides of a pair down changes no ratio."""
    row = Times(ours=[10, 40, 12], theirs=[20, 80, 20]).row()
    assert row["rcnn ms"] == 12
    assert row["torchvision ms"] == 20
    assert row["ratio"] == 0.5
    assert (row["ratio q1"], row["ratio q3"]) == (0.5, pytest.approx(0.55))


def test_one_measurement_has_no_spread() -> None:
    assert quartiles([3.0]) == (3.0, 3.0)
    assert quartiles([0.0, 1.0, 2.0, 3.0, 4.0]) == (1.0, 3.0)


def test_a_gpu_is_measured_more_often() -> None:
    cpu, gpu = (plan_for(Runtime(torch.device(name)), None) for name in ("cpu", "cuda"))
    assert gpu.warm_up > cpu.warm_up
    assert gpu.runs > cpu.runs == 1
    assert plan_for(Runtime(torch.device("cpu")), 3).pairs == 3
