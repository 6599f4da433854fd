"""Truncated SVD of fc6 and fc7, the fully connected layers behind the RoI pooling.

A layer becomes the product of two thinner ones (Fast R-CNN, section 3.1). The ranks are given, or
keep a share of the energy, or keep a time on this machine; ``stage_seconds`` measures what a
compression saves.

Letters: O outputs and I inputs of a layer, k = min(O, I), r rank.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from rcnn.model.backbones import TwoMLPHead
from rcnn.model.build import Detector
from rcnn.model.proposal_network import ProposalNetwork
from rcnn.model.roi_heads import eval_mode
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError, require
from rcnn.structures import ImageBatch

Ranks = tuple[int, int]
"""Ranks of fc6 and fc7; 0 leaves a layer whole."""

TIMED_RANKS = 6
"""Number of ranks at which a layer is timed."""

STAGES = (
    *("transform", "backbone", "rpn head", "proposals", "roi pooling", "box head", "detections"),
    "rest",
)
"""Stages in the order of the data flow, by the model's labels; ``rest`` has no label."""

ROUNDING = 1e-12
"""Difference of two shares that count as equal."""


# --- one layer ------------------------------------------------------------------------------


@dataclass(frozen=True)
class SingularValues:
    """A weight matrix with its singular values, to be truncated at any rank.

    Attributes:
        weight: the matrix itself.
        values: singular values, largest first.
        vectors: singular vectors of the shorter side, as columns in the order of the values.
    """

    weight: Float[Tensor, "O I"]
    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k k"]

    def truncated(self, rank: int) -> tuple[Float[Tensor, "r I"], Float[Tensor, "O r"]]:
        """Return the two factors of the best approximation of a rank.

        ``second @ first`` is ``U diag(s) V^T`` with the largest values alone. As in the paper the
        diagonal is part of the first factor, if there are not more outputs than inputs.

        Args:
            rank: 1 to k.

        Raises:
            SettingsError: the matrix has no such rank.
        """
        largest = len(self.values)
        require(1 <= rank <= largest, "rank", rank, f"this matrix has ranks from 1 to {largest}")
        weight, vectors = self.weight.to(self.vectors.dtype), self.vectors[:, :rank]
        # diag(s) V^T = U^T W, and U diag(s) = W V: nothing is divided by small values.
        wide = weight.shape[0] <= weight.shape[1]
        first, second = (vectors.T @ weight, vectors) if wide else (vectors.T, weight @ vectors)
        return first.to(self.weight.dtype), second.to(self.weight.dtype)

    def rank_for_energy(self, share: float) -> int:
        """Return the smallest rank that keeps a share of the sum of the squared singular values.

        Args:
            share: above 0, at most 1.

        Raises:
            SettingsError: the share is out of range.
        """
        require(0 < share <= 1, "energy", share, "a share above 0, at most 1")
        too_much = self.lost_energy() > 1 - share + ROUNDING
        return int(too_much.sum().clamp(min=1))

    def lost_energy(self) -> Float[Tensor, " k1"]:
        """Return the share of the squared singular values that is lost at the ranks 0 to k."""
        squares = self.values.double().square()
        # From the smallest up, so that the rest at high ranks is no difference of large sums.
        lost = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
        return lost / lost[0].clamp(min=torch.finfo(lost.dtype).tiny)


def decompose(weight: Float[Tensor, "O I"]) -> SingularValues:
    """Return the singular values of a matrix and the vectors of its shorter side.

    They come from the eigenvalues of the smaller product of the matrix with its transpose, which
    for a matrix like fc6 of VGG-16 takes a sixth of the time of a general routine. The product
    squares the values; double precision keeps those exact that single precision can tell from zero.
    """
    exact = weight.detach().double()
    wide = exact.shape[0] <= exact.shape[1]
    eigenvalues, vectors = torch.linalg.eigh(exact @ exact.T if wide else exact.T @ exact)
    values = eigenvalues.flip(0).clamp(min=0).sqrt()
    return SingularValues(weight.detach(), values, vectors.flip(1))


# --- a detector -----------------------------------------------------------------------------


class BoxHeadSVD:
    """The singular values of fc6 and fc7, each computed when it is first needed.

    For fc6 of VGG-16 that takes half a minute on one core; every truncation afterwards is a
    product of matrices.

    Args:
        detector: a system with a box head of two whole linear layers.

    Raises:
        SettingsError: the box head is another one.
    """

    def __init__(self, detector: Detector) -> None:
        box_head = compressible_head(detector)
        self.layers = cast(tuple[nn.Linear, nn.Linear], (box_head.fc6, box_head.fc7))

    @cached_property
    def fc6(self) -> SingularValues:
        """Singular values of the layer on the pooled cells."""
        return decompose(self.layers[0].weight)

    @cached_property
    def fc7(self) -> SingularValues:
        """Singular values of the second layer."""
        return decompose(self.layers[1].weight)

    def ranks_for_energy(self, share: float) -> Ranks:
        """Return the smallest ranks at which each layer keeps a share of its energy.

        The energy of a matrix is the sum of its squared singular values. A layer stays whole where
        the product would have as many weights.

        Args:
            share: above 0, at most 1.

        Raises:
            SettingsError: the share is out of range, or both layers would stay whole.
        """
        saving = []
        for layer in (self.fc6, self.fc7):
            outputs, inputs = layer.weight.shape
            rank = layer.rank_for_energy(share)
            saving.append(rank if rank * (inputs + outputs) < inputs * outputs else 0)
        allowed = "at ranks that keep it, fc6 and fc7 have as many weights as whole. Ask for less"
        require(any(saving), "energy", share, allowed)
        return saving[0], saving[1]

    def ranks_for_seconds(self, seconds: float, rois: int) -> Ranks:
        """Return the ranks that lose the least energy while fc6 and fc7 keep a time.

        Args:
            seconds: time of both layers together, on this machine.
            rois: number of RoIs that pass the layers at once.

        Raises:
            SettingsError: the layers are fast enough as they are, or cannot become so fast.
        """
        first, second = (measure_layer(layer, rois) for layer in self.layers)
        return ranks_for_seconds((self.fc6, first), (self.fc7, second), seconds)


def compressible_head(detector: Detector) -> TwoMLPHead:
    """Return the box head of a detector, which has to consist of two whole linear layers.

    Raises:
        SettingsError: it does not; says what to do instead.
    """
    if isinstance(detector, ProposalNetwork):
        raise SettingsError("A proposal network has no layers behind a RoI pooling to compress.")
    box_head, backbone = detector.roi_heads.box_head, detector.roi_heads.settings.backbone
    if not isinstance(box_head, TwoMLPHead):
        raise SettingsError(
            f"The box head of {backbone.name!r}, a {type(box_head).__name__}, has no fully "
            "connected layers to compress. A ResNet has them if it is trained with "
            "backbone.box_head=two_mlp."
        )
    if box_head.ranks is not None:
        raise SettingsError(
            f"The detector is compressed already, to the ranks {box_head.ranks}: give the one that "
            "it was made from."
        )
    return box_head


def compressed_state(
    detector: Detector, ranks: Ranks, factors: BoxHeadSVD | None = None
) -> tuple[DetectorSettings, dict[str, Tensor]]:
    """Return the settings and the state dict of a detector with thinner layers fc6 and fc7.

    The settings hold the ranks, so that a checkpoint of them loads like any other.

    Args:
        detector: the whole detector; stays as it is.
        ranks: ranks of fc6 and fc7, 0 to leave one of them whole.
        factors: singular values of ``detector``, if it is compressed more than once.

    Raises:
        SettingsError: the box head cannot be compressed, or not to these ranks.
    """
    factors = factors or BoxHeadSVD(detector)
    first, _ = factors.layers
    settings = cast(DetectorSettings, detector.get_submodule("roi_heads").settings)
    settings = replace(settings, backbone=replace(settings.backbone, ranks=ranks))
    # Ranks that the layers cannot have are refused before anything is decomposed.
    with torch.device("meta"):
        sizes = {"in_channels": first.in_features, "cells": 1, "hidden": first.out_features}
        TwoMLPHead(**sizes, dropout=0.0, ranks=ranks)
    state: dict[str, Tensor] = dict(detector.state_dict())
    for name, rank in zip(("fc6", "fc7"), ranks, strict=True):
        if rank:
            key = f"roi_heads.box_head.{name}."
            values: SingularValues = getattr(factors, name)
            del state[f"{key}weight"]
            state[f"{key}first.weight"], state[f"{key}second.weight"] = values.truncated(rank)
            state[f"{key}second.bias"] = state.pop(f"{key}bias")
    return settings, state


# --- ranks for a time -----------------------------------------------------------------------


@torch.no_grad()
def measure_layer(layer: nn.Linear, rois: int, min_run_time: float = 0.2) -> Float[Tensor, " r1"]:
    """Return the seconds of a whole layer, then those of its products of rank 1, 2, ... r.

    Beyond rank r the product has more weights than the layer. Some ranks are timed, on random
    features. Between them the time is a straight line: the arithmetic grows with the rank, and
    reading the inputs comes on top.

    Args:
        layer: a linear layer, on the device to measure.
        rois: number of RoIs that pass the layer at once.
        min_run_time: seconds that each of the timings takes at least.
    """
    # Here, because it looks for a compiler and warns on machines without a GPU.
    from torch.utils.benchmark import Timer

    inputs, outputs = layer.in_features, layer.out_features
    features = torch.rand(rois, inputs).to(layer.weight)

    def seconds(module: nn.Module) -> float:
        timer = Timer(
            "module(features)",
            globals={"module": module, "features": features},
            num_threads=torch.get_num_threads(),
        )
        return float(timer.blocked_autorange(min_run_time=min_run_time).median)

    last = max(inputs * outputs // (inputs + outputs), 1)
    ranks = np.unique(np.linspace(1, last, TIMED_RANKS).round().astype(int)).tolist()
    products = (
        nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)).to(features)
        for rank in ranks
    )
    timed = [seconds(product) for product in products]
    between = np.interp(np.arange(1, last + 1), ranks, timed)
    return torch.from_numpy(np.append(seconds(layer), between))


def ranks_for_seconds(
    fc6: tuple[SingularValues, Float[Tensor, " r1"]],
    fc7: tuple[SingularValues, Float[Tensor, " s1"]],
    seconds: float,
) -> Ranks:
    """Return the ranks that lose the least within a time; 0 is a whole layer.

    Of all pairs of ranks within the time, these have the smallest sum of the two shares of lost
    energy.

    Args:
        fc6: singular values and times of the first layer, see ``measure_layer``.
        fc7: singular values and times of the second layer.
        seconds: time of both layers together.

    Raises:
        SettingsError: the layers are fast enough as they are, or cannot become so fast.
    """
    times = fc6[1][:, None] + fc7[1]
    asked = f"milliseconds={1000 * seconds:g}"
    whole, least = float(times[0, 0]), float(times.min())
    if whole <= seconds:
        raise SettingsError(
            f"{asked} is not possible: fc6 and fc7 take {1000 * whole:.3g} ms on this machine as "
            "they are, and need no compression."
        )
    if least > seconds:
        raise SettingsError(
            f"{asked} is not possible: at the lowest ranks fc6 and fc7 take {1000 * least:.3g} ms "
            "on this machine. Ask for more, or for fewer RoIs."
        )
    first, second = (values.lost_energy().cpu()[: len(table)] for values, table in (fc6, fc7))
    first[0] = second[0] = 0.0  # a whole layer loses nothing
    lost = torch.where(times <= seconds, first[:, None] + second, torch.inf)
    return divmod(int(lost.argmin()), len(second))


# --- time of every stage --------------------------------------------------------------------


@torch.no_grad()
def stage_seconds(
    detector: Detector, batches: Sequence[ImageBatch], repeats: int = 5
) -> Mapping[str, float]:
    """Return the seconds per image that a detector spends in each of its ``STAGES``.

    torch's profiler charges every operation to the innermost stage around it; the seconds are the
    stage's share of a run without profiler. Fast R-CNN (figure 2) and Faster R-CNN (table 5) have
    such a breakdown.

    Args:
        detector: any system.
        batches: resized images on the detector's device, with proposals if it makes none.
        repeats: number of runs, for the medians; another one before them warms up.
    """

    def detect() -> None:
        for batch in batches:
            detector.detect_batch(batch)

    from torch.utils.benchmark import Timer  # as in measure_layer

    timer = Timer("detect()", globals={"detect": detect}, num_threads=torch.get_num_threads())
    images = sum(len(batch.pixels) for batch in batches)
    on_gpu = batches[0].pixels.device.type == "cuda"
    runs = []
    with eval_mode(detector):
        detect()
        for _ in range(repeats):
            seconds = timer.timeit(1).median / images
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
            with profile(activities=activities) as profiler:
                detect()
                if on_gpu:
                    torch.cuda.synchronize()
            spent: Counter[str] = Counter()
            for event in profiler.events():
                if event.device_type != DeviceType.CPU:
                    continue  # a GPU's kernels are counted with the operations that started them
                around = event
                while around is not None and around.name not in STAGES:
                    around = around.cpu_parent
                own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
                spent["rest" if around is None else around.name] += own
            total = sum(spent.values())
            runs.append({stage: seconds * own / total for stage, own in spent.items()})
    found = [stage for stage in STAGES if any(stage in run for run in runs)]
    return {stage: statistics.median(run.get(stage, 0.0) for run in runs) for stage in found}
