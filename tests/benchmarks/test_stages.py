"""Operations under the profiler are charged to stages and sorted into kinds."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from benchmarks.pair import INFERENCE, Runtime
from benchmarks.stages import profiled_shares
from rcnn.kernels.winograd import convolve


@dataclass
class Run:
    """A contestant that runs a function."""

    function: Callable[[], object]
    runtime: Runtime = Runtime(torch.device("cpu"))  # noqa: RUF009

    def run(self, task: str) -> None:  # noqa: ARG002
        self.function()


def shares(function: Callable[[], object]) -> dict[str, float]:
    return profiled_shares(Run(function), INFERENCE)  # type: ignore[arg-type]


def test_an_operation_is_charged_to_the_innermost_stage() -> None:
    matrix = torch.randn(300, 300)

    def nested() -> None:
        with record_function("proposals"):
            with record_function("rpn head"):
                matrix @ matrix
            matrix.sort()
        matrix.cumsum(0)

    spent = shares(nested)
    assert min(spent["rpn head"], spent["proposals"], spent["rest"]) > 0
    assert sum(spent[s] for s in ("rpn head", "proposals", "rest")) == pytest.approx(1)
    assert 1 - spent["overhead"] == pytest.approx(spent["rpn head"], abs=0.2)


def test_convolutions_and_linear_layers_are_no_overhead() -> None:
    network = nn.Sequential(
        nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 500)
    )
    pixels = torch.randn(16, 8, 8, 8)
    spent = shares(lambda: network(pixels).sum().backward())
    assert 0 < spent["norms, activations"] < spent["overhead"] < 1


def test_a_winograd_convolution_counts_as_one_convolution() -> None:
    cells, weight = torch.randn(8, 16, 8, 8).requires_grad_(), torch.randn(16, 16, 3, 3)
    assert shares(lambda: convolve(cells, weight))["overhead"] < 0.1

    def both_ways() -> Tensor:
        convolved = convolve(cells, weight)
        convolved.backward(torch.ones_like(convolved))
        return convolved

    assert shares(both_ways)["overhead"] < 0.2


def test_sorting_is_overhead() -> None:
    assert shares(lambda: torch.randn(1000).sort())["overhead"] == 1
