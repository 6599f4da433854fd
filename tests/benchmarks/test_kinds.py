"""Shares of the time by kind of operation."""

import torch
from torch import nn

from benchmarks.kinds import shares_of
from benchmarks.runtime import Runtime
from rcnn.kernels.winograd import convolve

CPU = Runtime(torch.device("cpu"))


def test_convolutions_and_linear_layers_are_told_from_the_rest() -> None:
    network = nn.Sequential(
        nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 500)
    )
    pixels = torch.randn(16, 8, 8, 8)
    shares = shares_of(lambda: network(pixels).sum().backward(), CPU)
    assert shares.matrices > 0
    assert shares.layers > 0
    assert shares.matrices + shares.layers < 1


def test_a_winograd_convolution_is_one_with_all_its_steps() -> None:
    cells, weight = torch.randn(8, 16, 8, 8).requires_grad_(), torch.randn(16, 16, 3, 3)
    assert shares_of(lambda: convolve(cells, weight), CPU).matrices > 0.9
    ones = torch.ones(8, 16, 8, 8)
    assert shares_of(lambda: convolve(cells, weight).backward(ones), CPU).matrices > 0.8


def test_sorting_is_neither() -> None:
    shares = shares_of(lambda: torch.randn(1000).sort(), CPU)
    assert shares.matrices == shares.layers == 0


def test_one_run_that_is_unlike_the_others_does_not_count() -> None:
    """The first of three repeats, each of which runs twice, only sorts."""
    runs = iter(range(6))
    square = torch.randn(200, 200)
    shares = shares_of(lambda: square.sort() if next(runs) < 2 else square @ square, CPU, 3)
    assert shares.matrices > 0.5
    assert next(runs, None) is None
