"""Both detectors have the same weights, take turns, and behave like trained ones."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from benchmarks import switches
from benchmarks.detectors import gpu_runtimes
from benchmarks.pair import (
    INFERENCE,
    STEP,
    Pair,
    Runtime,
    Workload,
    build_model,
    build_pair,
    images_for,
    interleave,
    set_task,
    spread,
)
from rcnn.interop import from_torchvision
from rcnn.kernels.conv import FastConv2d, FoldedNorm2d
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.speed import SpeedSettings

LOAD = Workload("mobilenet_v3_large_fpn", (96, 128), classes=3, objects=2, before_nms=500)
FROZEN = replace(LOAD, norm="frozen")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Clock(Runtime):
    """A runtime whose clock advances by the seconds of each action."""

    device: torch.device = CPU
    now: list[float] = field(default_factory=lambda: [0.0])
    order: list[str] = field(default_factory=list)

    def seconds(self) -> float:
        return self.now[0]

    def action(self, name: str, seconds: float) -> Callable[[], None]:
        def act() -> None:
            self.order.append(name)
            self.now[0] += seconds

        return act


@pytest.fixture(scope="module")
def pair() -> Pair:
    return build_pair(LOAD, Runtime(CPU))


def test_actions_take_turns_after_a_warm_up_and_each_has_its_own_time() -> None:
    clock = Clock()
    actions = {"A": clock.action("A", 0.002), "B": clock.action("B", 0.01)}
    times = interleave(actions, clock, rounds=2, runs=3)
    assert "".join(clock.order) == "AAABBB" + "BBBAAA" + "AAABBB"
    assert times["A"] == pytest.approx([2, 2])
    assert times["B"] == pytest.approx([10, 10])


def test_a_spread_is_the_median_with_its_quartiles() -> None:
    assert spread("ms", [3.0]) == {"ms": 3.0, "ms q1": 3.0, "ms q3": 3.0}
    assert spread("ms", [4.0, 0.0, 3.0, 1.0, 2.0]) == {"ms": 2.0, "ms q1": 1.0, "ms q3": 3.0}


def test_both_have_the_limits_of_the_workload(pair: Pair) -> None:
    assert isinstance(pair.ours.module, FasterRCNN)
    settings = pair.ours.module.settings
    assert settings.proposals.before_nms_train == settings.proposals.before_nms_test == 500
    assert pair.theirs.module.rpn._pre_nms_top_n == {"training": 500, "testing": 500}
    assert len(settings.class_names) == 3


def test_realistic_weights_give_many_detections_of_several_classes(pair: Pair) -> None:
    set_task(pair, INFERENCE)
    ours, theirs = (one.detections() for one in pair)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) == len(other["boxes"]) > 10
        assert len(one.labels.unique()) > 1


def test_frozen_norms_keep_the_statistics_of_both() -> None:
    images = images_for(LOAD)
    counting, fixed = (build_model(load, images, CPU) for load in (LOAD, FROZEN))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fixed.modules())
    mean = "backbone.body.0.1.running_mean"
    assert fixed.state_dict()[mean].abs().max() > 0
    assert torch.equal(fixed.state_dict()[mean], counting.state_dict()[mean])
    norms = [p for p in from_torchvision(fixed).modules() if isinstance(p, FrozenBatchNorm2d)]
    assert len(norms) == sum(isinstance(part, nn.BatchNorm2d) for part in counting.modules())


def test_a_gpu_compares_equal_precisions_and_our_best_with_float32() -> None:
    runtimes = gpu_runtimes(CPU)
    precisions = [(one.precision, one.their_precision or one.precision) for one in runtimes]
    assert precisions == [("32", "32"), ("bf16", "bf16"), ("bf16", "32")]
    assert [one.speed.compile for one in runtimes] == [False, False, True]


def test_each_detector_runs_at_its_own_precision() -> None:
    pair = build_pair(LOAD, Runtime(CPU, precision="bf16", their_precision="32"))
    set_task(pair, INFERENCE)
    for one, dtype in zip(pair, (torch.bfloat16, torch.float32), strict=True):
        heads = [part for part in one.module.modules() if isinstance(part, nn.Linear)]
        seen: list[torch.dtype] = []
        heads[-1].register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.dtype))
        one.run(INFERENCE)
        assert seen == [dtype]


def test_each_variant_lacks_the_switch_that_it_is_named_after() -> None:
    variants = switches.build_variants(FROZEN, Runtime(CPU))
    assert list(variants) == ["nothing", "channels_last", "winograd", "fold_norms"]
    for name, one in variants.items():
        speed = one.runtime.speed
        on = {key: getattr(speed, key) for key in ("channels_last", "winograd", "fold_norms")}
        assert on == {key: key != name for key in on}
        layers = [part for part in one.module.modules() if isinstance(part, FastConv2d)]
        assert any(part.winograd for part in layers) == (name != "winograd")
        folded = any(isinstance(part, FoldedNorm2d) for part in one.module.modules())
        assert folded == (name != "fold_norms")


def test_a_network_without_norms_has_none_in_its_row() -> None:
    assert Workload("vgg16").columns()["norm"] == "none"
    assert FROZEN.columns()["norm"] == "frozen"


def test_a_step_moves_the_weights_of_both(pair: Pair) -> None:
    set_task(pair, STEP)
    for one in pair:
        before = [parameter.detach().clone() for parameter in one.module.parameters()]
        one.run(STEP)
        changed = [
            not torch.equal(now, then)
            for now, then in zip(one.module.parameters(), before, strict=True)
        ]
        assert sum(changed) > len(changed) / 2


@pytest.mark.slow
def test_memory_format_and_precision_are_as_asked() -> None:
    for channels_last in (True, False):
        for both in (True, False):
            speed = SpeedSettings(channels_last=channels_last)
            ours, theirs = build_pair(LOAD, Runtime(CPU, "bf16", speed, both))
            weights = [
                one.module.get_parameter(f"rpn.head.conv.{name}")
                for one, name in ((ours, "weight"), (theirs, "0.0.weight"))
            ]
            last = [w.is_contiguous(memory_format=torch.channels_last) for w in weights]
            assert last == [channels_last, channels_last and both]
