"""Both detectors have the same weights, and behave as if they had learned something."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from benchmarks import gpu, switches
from benchmarks.pairs import set_task
from benchmarks.runtime import Runtime
from benchmarks.sides import Sides, Workload, build_model, build_sides, scenes_of
from rcnn.interop import from_torchvision
from rcnn.kernels.conv import FoldedNorm2d, QuickConv2d
from rcnn.model.speed import SpeedSettings

LOAD = Workload("mobilenet_v3_large_fpn", (96, 128), classes=3, objects=2, before_nms=500)
FROZEN = replace(LOAD, norm="frozen")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sides() -> Sides:
    return build_sides(LOAD, Runtime(CPU))


def test_the_workload_is_that_of_both(sides: Sides) -> None:
    settings = sides.ours.module.settings
    assert settings.proposals.before_nms_train == settings.proposals.before_nms_test == 500
    assert sides.theirs.module.rpn._pre_nms_top_n == {"training": 500, "testing": 500}
    assert len(settings.class_names) == 3


def test_many_things_are_found(sides: Sides) -> None:
    set_task(sides, "inference")
    ours, theirs = (side.detect() for side in sides)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) == len(other["boxes"]) > 10
        assert len(one.labels.unique()) > 1


def test_frozen_norms_are_fixed_on_both_sides_and_keep_what_they_know() -> None:
    scenes = scenes_of(LOAD)
    counting, fixed = (build_model(load, scenes, CPU) for load in (LOAD, FROZEN))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fixed.modules())
    mean = "network.backbone.0.1.running_mean"
    assert fixed.state_dict()[mean].abs().max() > 0
    assert torch.equal(fixed.state_dict()[mean], counting.state_dict()[mean])
    norms = [p for p in from_torchvision(fixed).modules() if isinstance(p, FrozenBatchNorm2d)]
    assert len(norms) == sum(isinstance(part, nn.BatchNorm2d) for part in counting.modules())


def test_on_a_gpu_the_same_precision_is_compared_and_the_best_of_ours_with_float32() -> None:
    single, half, compiled = gpu.settings_of(CPU)
    pairs = [(one.precision, one.theirs.precision) for one in (single, half, compiled)]
    assert pairs == [("32", "32"), ("bf16", "bf16"), ("bf16", "32")]
    assert [one.speed.compile for one in (single, half, compiled)] == [False, False, True]
    assert compiled.columns()["torchvision runs"] == "contiguous, precision 32"


def test_each_side_runs_at_its_own_precision() -> None:
    sides = build_sides(LOAD, Runtime(CPU, precision="bf16", their_precision="32"))
    set_task(sides, "inference")
    for side, dtype in zip(sides, (torch.bfloat16, torch.float32), strict=True):
        heads = [part for part in side.module.modules() if isinstance(part, nn.Linear)]
        seen: list[torch.dtype] = []
        heads[-1].register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.dtype))
        side.detect()
        assert seen == [dtype]


def test_each_variant_lacks_the_one_switch_that_it_is_named_after() -> None:
    sides = switches.build_variants(FROZEN, Runtime(CPU))
    off = {name: SpeedSettings(**{name: False}) for name in [*sides][1:]}
    assert list(off) == ["channels_last", "winograd", "fold_norms"]
    speeds = {name: side.runtime.speed for name, side in sides.items()}
    assert speeds == {switches.NOTHING: SpeedSettings()} | off
    for name, side in sides.items():
        quick = [part for part in side.module.modules() if isinstance(part, QuickConv2d)]
        assert any(part.winograd for part in quick) == (name != "winograd")
        folded = any(isinstance(part, FoldedNorm2d) for part in side.module.modules())
        assert folded == (name != "fold_norms")


def test_a_network_without_norms_says_so() -> None:
    assert Workload("vgg16").columns()["norm"] == "none"
    assert FROZEN.columns()["norm"] == "frozen"


@pytest.mark.slow
def test_a_step_moves_the_weights_of_both_by_the_same_optimiser(sides: Sides) -> None:
    set_task(sides, "train step")
    ours, theirs = (type(side.optimizer) for side in sides)
    assert ours is theirs
    for side in sides:
        before = [parameter.detach().clone() for parameter in side.module.parameters()]
        side.step()
        changed = [
            not torch.equal(now, then)
            for now, then in zip(side.module.parameters(), before, strict=True)
        ]
        assert all(p.requires_grad for p in side.module.parameters())
        assert sum(changed) > len(changed) / 2


@pytest.mark.slow
def test_memory_format_and_precision_are_as_asked() -> None:
    for channels_last in (True, False):
        speed = SpeedSettings(channels_last)
        for both in (True, False):
            ours, theirs = build_sides(LOAD, Runtime(CPU, "bf16", speed, both))
            weights = ours.module.rpn.conv.weight, theirs.module.rpn.head.conv[0][0].weight
            last = [w.is_contiguous(memory_format=torch.channels_last) for w in weights]
            assert last == [channels_last, channels_last and both]
    seen = []
    ours.module.rpn.register_forward_hook(lambda *call: seen.append(call[2].logits[0].dtype))
    ours.module.train()
    assert ours.loss().dtype == torch.float32
    assert seen == [torch.bfloat16]
