"""Optimisers and schedules: which parameter gets which rate, at which step."""

import io
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, ReduceLROnPlateau

from rcnn.model.backbones import BackboneSettings, build_network
from rcnn.settings import SettingsError
from rcnn.training.optim import (
    AdamWCosine,
    OptimizerAndSchedule,
    OptimizerFactory,
    PaperSGD,
    Recipe,
    parameter_groups,
)


@pytest.fixture
def network() -> nn.Sequential:
    """A frozen convolution, a normalisation layer and two linear layers."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 3), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    return network


def rates(built: OptimizerAndSchedule, steps: int) -> Iterator[dict[str, float]]:
    """Take steps as a training loop does; yield the rate of each group at each of them."""
    for _ in range(steps):
        yield {group["name"]: group["lr"] for group in built.optimizer.param_groups}
        for group in built.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        built.optimizer.step()
        built.schedule.step()


def weight_rates(recipe: Recipe, network: nn.Module, steps: int) -> list[float]:
    return [group["weights"] for group in rates(recipe(network, steps, 2), steps)]


def of_groups(recipe: Recipe, network: nn.Module, *keys: str) -> dict[str, Any]:
    groups = recipe(network, 10, 2).optimizer.param_groups
    return {group["name"]: tuple(group[key] for key in keys) for group in groups}


# --- parameters -------------------------------------------------------------------------------


def test_parameters_are_sorted_and_frozen_ones_left_out(network: nn.Sequential) -> None:
    norm, first, second = network[1], network[2], network[3]
    expected = {
        "weights": [first.weight, second.weight],
        "biases": [first.bias, second.bias],
        "norms": [norm.weight, norm.bias],
    }
    groups = parameter_groups(network)
    assert list(groups) == list(expected)
    for name, parameters in expected.items():
        assert [id(p) for p in groups[name]] == [id(p) for p in parameters]


def test_a_shared_weight_is_learned_once() -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    groups = parameter_groups(nn.Sequential(first, second))
    assert {name: len(parameters) for name, parameters in groups.items()} == {"weights": 1}


def test_a_frozen_network_is_an_error(network: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="Sequential has nothing to learn"):
        PaperSGD()(network.requires_grad_(False), 10, 2)


def test_the_groups_of_the_papers(network: nn.Sequential) -> None:
    keys = ("lr", "weight_decay", "momentum")
    assert of_groups(PaperSGD(), network, *keys) == {
        "weights": (0.001, 0.0005, 0.9),
        "biases": (0.002, 0.0, 0.9),
        "norms": (0.001, 0.0, 0.9),
    }
    decays = of_groups(PaperSGD(decay_norms=True), network, "weight_decay")
    assert decays == {"weights": (0.0005,), "biases": (0.0,), "norms": (0.0005,)}
    assert of_groups(AdamWCosine(lr=0.5), network, "initial_lr", "weight_decay") == {
        "weights": (0.5, 0.05),
        "biases": (0.5, 0.0),
        "norms": (0.5, 0.0),
    }


@pytest.mark.parametrize("name", ["resnet18", "resnet18_fpn"])
def test_pretrained_layers_of_the_backbone_learn_at_their_own_rate(name: str) -> None:
    settings = BackboneSettings(name, norm="batch", frozen_stages=1, hidden=4, fpn_channels=4)
    network = build_network(settings, cells=1)
    module = nn.ModuleList([network.backbone, network.box_head])
    pretrained = {
        key
        for key, parameter in module.named_parameters()
        if parameter.requires_grad and key.startswith("0.") and not key.startswith("0.fpn.")
    }
    optimizer = PaperSGD(lr=1.0, backbone_lr_scale=0.25)(module, 10, 2).optimizer
    found = {group["name"]: group["lr"] for group in optimizer.param_groups}
    expected = {"weights": 1.0, "backbone_weights": 0.25, "backbone_norms": 0.25}
    assert found | expected == found
    names = {parameter: key for key, parameter in module.named_parameters()}
    slow = [p for group in optimizer.param_groups if group["lr"] < 1 for p in group["params"]]
    assert {names[parameter] for parameter in slow} == pretrained
    same = AdamWCosine()(module, 10, 2).optimizer.param_groups
    assert {group["name"] for group in same} <= {"weights", "biases", "norms"}


def test_one_step_of_paper_sgd_by_hand(network: nn.Sequential) -> None:
    linear = network[2]
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    list(rates(PaperSGD(lr=0.1, weight_decay=0.5)(network, 10, 2), 1))
    torch.testing.assert_close(linear.weight.detach(), weight - 0.1 * (1 + 0.5 * weight))
    torch.testing.assert_close(linear.bias.detach(), bias - 0.2)


@pytest.mark.parametrize("fused", [True, False])
def test_fused_kernels_are_used_unless_forbidden(network: nn.Sequential, fused: bool) -> None:
    for recipe in (PaperSGD(), AdamWCosine()):
        assert recipe(network, 10, 2, fused=fused).optimizer.defaults["fused"] is fused


def test_the_rate_scales_with_the_batch_if_switched_on(
    network: nn.Sequential, caplog: pytest.LogCaptureFixture
) -> None:
    for recipe in (PaperSGD(lr=0.001), AdamWCosine(lr=0.001, warmup_steps=0)):
        assert recipe(network, 10, 8).optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    assert "Learning rate" not in caplog.text
    with caplog.at_level(logging.INFO):
        optimizer = PaperSGD(lr=0.001, scale_lr_to_batch=True)(network, 10, 8).optimizer
    found = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert found == pytest.approx({"weights": 0.004, "biases": 0.008, "norms": 0.004})
    assert "0.001 x 8/2 images = 0.004" in caplog.text


# --- schedules --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (PaperSGD(lr=1.0), [1.0] * 6 + [0.1] * 2),
        (
            PaperSGD(lr=1.0, milestones=(0.5, 0.75), decay=0.5),
            [1.0] * 4 + [0.5] * 2 + [0.25] * 2,
        ),
        (
            PaperSGD(lr=1.0, milestones=(), warmup_steps=4, warmup_factor=0.2),
            [0.2, 0.4, 0.6, 0.8] + [1.0] * 4,
        ),
        # 0.2 + 0.8 * (1 + cos(pi k / 4)) / 2 for k = 0..3
        (
            AdamWCosine(lr=1.0, warmup_steps=0, final_lr_fraction=0.2),
            [1.0, 0.882843, 0.6, 0.317157],
        ),
        (AdamWCosine(lr=1.0, warmup_steps=2, warmup_factor=0.5), [0.5, 0.75, 1.0, 0.5]),
    ],
)
def test_rates_by_hand(recipe: Recipe, expected: list[float], network: nn.Sequential) -> None:
    found = list(rates(recipe(network, len(expected), 2), len(expected)))
    assert [step["weights"] for step in found] == pytest.approx(expected, abs=1e-6)
    factor = getattr(recipe, "bias_lr_factor", 1.0)
    assert [step["biases"] for step in found] == pytest.approx(
        [factor * rate for rate in expected], abs=1e-6
    )


def test_a_warm_up_longer_than_the_run_ends_at_its_half(
    network: nn.Sequential, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = PaperSGD(lr=1.0, milestones=(), warmup_steps=1000, warmup_factor=0.5)
    with caplog.at_level(logging.INFO):
        assert weight_rates(recipe, network, 4) == pytest.approx([0.5, 0.75, 1.0, 1.0])
    assert "Warm-up of 1000 steps cut to 2" in caplog.text


@given(
    steps=st.integers(1, 40),
    warmup=st.integers(0, 60),
    recipe=st.sampled_from([PaperSGD, AdamWCosine]),
)
def test_every_run_reaches_its_full_rate_and_never_exceeds_it(
    steps: int, warmup: int, recipe: type[PaperSGD] | type[AdamWCosine]
) -> None:
    found = weight_rates(recipe(lr=1.0, warmup_steps=warmup), nn.Linear(1, 1), steps)
    assert max(found) == pytest.approx(1.0)
    assert min(found) >= 0.0


@pytest.mark.parametrize("length", [float("inf"), -1])
def test_a_run_without_end_needs_a_schedule_without_end(
    network: nn.Sequential, length: float
) -> None:
    for recipe in (PaperSGD(), AdamWCosine()):
        with pytest.raises(SettingsError, match=r"trainer\.max_epochs"):
            recipe(network, length, 2)
    built = PaperSGD(lr=1.0, milestones=(), warmup_steps=2, warmup_factor=0.5)(network, length, 2)
    assert [step["weights"] for step in rates(built, 3)] == pytest.approx([0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    "recipe",
    [
        PaperSGD(milestones=(0.3, 0.8), warmup_steps=2),
        AdamWCosine(warmup_steps=3),
        OptimizerFactory(
            partial(torch.optim.Adam, lr=0.1), CosineAnnealingLR, length_argument="T_max"
        ),
    ],
)
def test_ten_steps_are_five_steps_a_resume_and_five_more(recipe: Recipe) -> None:
    def fresh() -> nn.Linear:
        torch.manual_seed(1)
        return nn.Linear(3, 2)

    def trace(module: nn.Module, built: OptimizerAndSchedule, steps: int) -> list[list[float]]:
        found = []
        for _ in range(steps):
            found.append([group["lr"] for group in built.optimizer.param_groups])
            built.optimizer.zero_grad()
            module(torch.ones(1, 3)).square().sum().backward()
            built.optimizer.step()
            built.schedule.step()
        return found

    whole, first, second = fresh(), fresh(), fresh()
    expected = trace(whole, recipe(whole, 10, 2), 10)
    built = recipe(first, 10, 2)
    found = trace(first, built, 5)
    file = io.BytesIO()
    states = (first.state_dict(), built.optimizer.state_dict(), built.schedule.state_dict())
    torch.save(states, file)
    file.seek(0)
    built = recipe(second, 10, 2)
    module_state, optimizer_state, schedule_state = torch.load(file, weights_only=True)
    second.load_state_dict(module_state)
    built.optimizer.load_state_dict(optimizer_state)
    built.schedule.load_state_dict(schedule_state)
    found += trace(second, built, 5)
    assert found == expected
    assert torch.equal(second.weight, whole.weight)


def test_a_resumed_run_that_was_made_longer_spreads_its_schedule_over_the_new_length() -> None:
    module = nn.Linear(1, 1)
    recipe = PaperSGD(lr=1.0, milestones=(0.5,))
    short = recipe(module, 4, 2)
    list(rates(short, 3))
    long = recipe(module, 10, 2)
    long.schedule.load_state_dict(short.schedule.state_dict())
    long.optimizer.load_state_dict(short.optimizer.state_dict())
    found = [group["weights"] for group in rates(long, 4)]
    assert found[1:] == pytest.approx([1.0, 0.1, 0.1])  # steps 4, 5, 6 of 10


# --- settings and foreign classes -------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "arguments", "key"),
    [
        (PaperSGD, {"lr": 0.0}, "lr=0.0"),
        (PaperSGD, {"momentum": 1.0}, "momentum=1.0"),
        (PaperSGD, {"weight_decay": -0.1}, "weight_decay=-0.1"),
        (PaperSGD, {"milestones": [60_000.0]}, r"milestones\[0\]=60000.0"),
        (PaperSGD, {"decay": 10.0}, "decay=10.0"),
        (PaperSGD, {"bias_lr_factor": 0.0}, "bias_lr_factor=0.0"),
        (PaperSGD, {"warmup_steps": -1}, "warmup_steps=-1"),
        (AdamWCosine, {"base_batch": 0}, "base_batch=0"),
        (AdamWCosine, {"final_lr_fraction": 1.5}, "final_lr_fraction=1.5"),
        (AdamWCosine, {"lr": "fast"}, "lr='fast'"),
        (AdamWCosine, {"learning_rate": 1.0}, "learning_rate.*Known keys"),
    ],
)
def test_impossible_values_are_named(recipe: type, arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        recipe(**arguments)


def test_any_optimizer_and_scheduler_fit_in(network: nn.Sequential) -> None:
    scheduler = partial(LinearLR, start_factor=1.0, end_factor=0.5)
    rmsprop = partial(torch.optim.RMSprop, lr=0.5, weight_decay=0.1)
    recipe = OptimizerFactory(rmsprop, scheduler, length_argument="total_iters")
    optimizer, schedule = recipe(network, 4, 2)
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert [len(group["params"]) for group in optimizer.param_groups] == [6]
    assert isinstance(schedule, LinearLR)
    assert schedule.total_iters == 4
    grouped = OptimizerFactory(rmsprop, scheduler, "total_iters", paper_groups=True)
    assert of_groups(grouped, network, "lr", "weight_decay") == {
        "weights": (0.5, 0.1),
        "biases": (1.0, 0.0),
        "norms": (0.5, 0.0),
    }


def test_without_a_scheduler_the_rate_stays(network: nn.Sequential) -> None:
    optimizer, schedule = OptimizerFactory(partial(torch.optim.SGD, lr=0.5))(network, 4, 2)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.5]


def test_a_scheduler_that_needs_a_metric_is_refused(network: nn.Sequential) -> None:
    recipe = OptimizerFactory(partial(torch.optim.SGD, lr=0.5), ReduceLROnPlateau)
    with pytest.raises(SettingsError, match="ReduceLROnPlateau"):
        recipe(network, 4, 2)
