"""Time by kind of operation, as PyTorch's profiler sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

from benchmarks.runtime import Runtime

MATRICES = frozenset(
    f"aten::{name}"
    for name in (
        *("mkldnn_convolution", "cudnn_convolution", "convolution_backward", "_convolution"),
        *("_slow_conv2d_forward", "_conv_depthwise2d", "thnn_conv2d", "convolution"),
        *("addmm", "mm", "linear", "mkldnn_linear", "_addmm_activation"),
    )
)
"""Convolutions and linear layers, forward and backward."""

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


@dataclass(frozen=True)
class Shares:
    """Of the time of a run, from 0 to 1.

    Attributes:
        matrices: in convolutions and linear layers.
        layers: in norms, activations and the backbones' pooling.
    """

    matrices: float
    layers: float


def shares_of(run: Callable[[], object], runtime: Runtime) -> Shares:
    """Run once undisturbed, and once more under the profiler.

    On a GPU the whole includes the time in which it waits for work.
    """
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
    microseconds = {
        event.key: event.self_device_time_total if gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    # Whatever a processor does is seen. Kernels of a GPU take as long with the profiler as without.
    whole = undisturbed if gpu else sum(microseconds.values())

    def share(kind: frozenset[str]) -> float:
        return float(sum(spent for name, spent in microseconds.items() if name in kind) / whole)

    return Shares(share(MATRICES), share(LAYERS))
