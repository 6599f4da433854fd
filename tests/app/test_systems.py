"""The systems as the command line chooses them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcnn.app.config import parse
from rcnn.model.build import SYSTEMS, build_detector, needs_proposals
from rcnn.settings import SettingsError

Compose = Callable[..., dict[str, Any]]
CONF = Path(__file__).parents[2] / "conf"
SMALL = ("backbone=resnet18", "proposals.folder=/somewhere")


def test_there_is_a_choice_for_every_system() -> None:
    assert {path.stem for path in (CONF / "model").glob("*.yaml")} == set(SYSTEMS)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_choice_builds_its_system(system: str, composed: Compose) -> None:
    config = parse(composed(f"model={system}", *SMALL))
    assert config.system == system
    backbone = config.detector["backbone"]
    detector = build_detector(system, config.settings(("thing",), backbone))
    assert type(detector) is SYSTEMS[system]


@pytest.mark.parametrize("system", [name for name in SYSTEMS if needs_proposals(name)])
def test_a_system_without_rpn_asks_for_the_folder(system: str, composed: Compose) -> None:
    plain = composed(f"model={system}")
    with pytest.raises(SettingsError, match=rf"model={system} makes no.*proposals\.folder=<"):
        parse(plain)
    assert parse(composed(f"model={system}", *SMALL)).proposals.folder == "/somewhere"


def test_each_learns_from_the_background_of_its_paper(composed: Compose) -> None:
    lows = {
        system: parse(composed(f"model={system}", *SMALL)).detector["roi_sampling"].background_low
        for system in SYSTEMS
    }
    paper = {"rcnn": 0.0, "sppnet": 0.1, "fast_rcnn": 0.1, "faster_rcnn": 0.0, "rpn": 0.0}
    assert lows == paper


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16", "resnet18_fpn"])
def test_sppnet_brings_its_pyramid_and_its_tail(backbone: str, composed: Compose) -> None:
    folder = "proposals.folder=/somewhere"
    config = parse(composed("model=sppnet", f"backbone={backbone}", folder, "pooling=crop"))
    assert config.detector["pooling"].kind == "pyramid"
    assert config.detector["pooling"].cells == 50
    assert config.detector["backbone"].box_head == "linear"


def test_the_bins_of_a_pyramid_are_chosen_on_the_command_line(composed: Compose) -> None:
    config = parse(composed("model=sppnet", *SMALL, "pooling.bins=[4,1]"))
    assert config.detector["pooling"].cells == 17


def test_the_warp_is_chosen_on_the_command_line(composed: Compose) -> None:
    config = parse(composed("model=rcnn", *SMALL, "model.warp.size=227", "model.warp.chunk=4"))
    warp = config.detector["warp"]
    assert (warp.size, warp.context, warp.chunk) == (227, 16, 4)
    with pytest.raises(SettingsError, match=r"model\.warp\.context=112.*less than half"):
        parse(composed("model=rcnn", *SMALL, "model.warp.context=112"))


def test_a_mistyped_system_is_told_with_the_nearest(composed: Compose) -> None:
    plain = composed("model.system=fast_rcn")
    with pytest.raises(SettingsError, match=r"system='fast_rcn'.*did you mean 'fast_rcnn'"):
        parse(plain)


def test_a_pyramid_without_linear_layers_is_refused_when_it_is_built(composed: Compose) -> None:
    config = parse(composed("model=fast_rcnn", *SMALL, "pooling=pyramid"))
    settings = config.settings(("thing",), config.detector["backbone"])
    with pytest.raises(SettingsError, match=r"backbone\.box_head=two_mlp"):
        build_detector("fast_rcnn", settings)
