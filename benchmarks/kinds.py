"""Time by kind of operation, as PyTorch's profiler sees it."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks.runtime import Runtime

MATRICES = frozenset(
    f"aten::{name}"
    for name in (
        *("mkldnn_convolution", "cudnn_convolution", "convolution_backward", "_convolution"),
        *("_slow_conv2d_forward", "_conv_depthwise2d", "thnn_conv2d", "convolution"),
        *("addmm", "mm", "linear", "mkldnn_linear", "_addmm_activation"),
    )
) | {"_Winograd", "_WinogradBackward"}
"""Convolutions and linear layers, forward and backward, with all that they call."""

LAYERS = frozenset(
    f"aten::{name}"
    for name in (
        *("native_batch_norm", "native_batch_norm_backward", "_native_batch_norm_legit"),
        *("cudnn_batch_norm", "cudnn_batch_norm_backward", "_batch_norm_impl_index"),
        *("batch_norm_backward", "_batch_norm_with_update", "batch_norm_elementwise"),
        *("relu_", "clamp_min_", "clamp_min", "relu", "threshold_backward"),
        *("max_pool2d_with_indices", "max_pool2d_with_indices_backward"),
        *("hardswish", "hardswish_", "hardswish_backward"),
        *("hardsigmoid", "hardsigmoid_", "hardsigmoid_backward"),
    )
)
"""The other layers of the backbones: norms, activations, pooling."""


KINDS = dict.fromkeys(MATRICES, "matrices") | dict.fromkeys(LAYERS, "layers")


@dataclass(frozen=True)
class Shares:
    """Of the time of a run, from 0 to 1.

    Attributes:
        matrices: in convolutions and linear layers.
        layers: in norms, activations and the backbones' pooling.
    """

    matrices: float
    layers: float


def shares_of(run: Callable[[], object], runtime: Runtime, repeats: int = 1) -> Shares:
    """Run a few times, each once undisturbed and once more under the profiler: medians of those.

    On a GPU the whole includes the time in which it waits for work.
    """
    shares = [_shares_of_one(run, runtime) for _ in range(repeats)]
    return Shares(*(statistics.median(kind) for kind in zip(*shares, strict=True)))


def _shares_of_one(run: Callable[[], object], runtime: Runtime) -> tuple[float, float]:
    runtime.wait()
    start = time.perf_counter()
    run()
    runtime.wait()
    undisturbed = 1e6 * (time.perf_counter() - start)
    gpu = runtime.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
    with profile(activities=activities) as profiler:
        run()
        runtime.wait()
    spent: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        kind = next((kind for name in _callers(event) if (kind := KINDS.get(name))), "rest")
        spent[kind] += event.self_device_time_total if gpu else event.self_cpu_time_total
    # Whatever a processor does is seen. Kernels of a GPU take as long with the profiler as without.
    whole = undisturbed if gpu else sum(spent.values())
    return spent["matrices"] / whole, spent["layers"] / whole


def _callers(event: FunctionEvent | None) -> Iterator[str]:
    """Give the names of an operation and of those that called it."""
    while event is not None:
        yield event.name
        event = event.cpu_parent
