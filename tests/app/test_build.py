"""From a config to a detector that starts from a file of weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.vgg import cfgs, make_layers

from rcnn.app import build
from rcnn.app.build import build_data, build_module, build_trainer
from rcnn.app.config import parse
from rcnn.model.build import SYSTEMS
from rcnn.training import DetectionModule
from rcnn.training.callbacks import Progress

Compose = Callable[..., dict[str, Any]]
State = dict[str, Tensor]


class VGGFeatures(nn.Module):
    """Torchvision's VGG-16 without its classifier, which takes a second to make."""

    def __init__(self) -> None:
        super().__init__()
        self.features = make_layers(cfgs["D"])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg16": VGGFeatures,
    "resnet18": resnet18,
    "resnet18_fpn": resnet18,
}
PLACES = {"vgg16": "backbone.", "resnet18": "backbone.", "resnet18_fpn": "backbone.backbone."}
"""Where the network's layers are in a detector."""


def file_of(name: str, folder: Path) -> tuple[Path, State]:
    """Write a state dict as torchvision would."""
    torch.manual_seed(7)
    state = NETWORKS[name]().state_dict()
    torch.save(state, folder / "network.pth")
    return folder / "network.pth", state


def built(composed: Compose, *overrides: str) -> DetectionModule:
    small = ("data.train=2", "data.val=2", "data.test=2", "backbone.hidden=8")
    config = parse(composed(*overrides, *small))
    source = build_data(config)
    source.proposals = None  # only the names of the classes are asked for
    return build_module(config, source)


@pytest.mark.parametrize("backbone", sorted(NETWORKS))
@pytest.mark.parametrize("system", SYSTEMS)
def test_torchvision_s_names_find_their_place_in_every_system(
    system: str, backbone: str, composed: Compose, tmp_path: Path
) -> None:
    if (system, backbone) == ("rcnn", "resnet18_fpn"):
        pytest.skip("R-CNN takes no pyramid")
    path, state = file_of(backbone, tmp_path)
    module = built(
        composed,
        f"model={system}",
        f"backbone={backbone}",
        f"backbone.weights={path}",
        "proposals.folder=/somewhere",
    )
    ours, place = module.detector.state_dict(), PLACES[backbone]
    covered = {name for name in ours if name.startswith(place)}
    assert covered
    for name in covered:
        assert torch.equal(ours[name], state[name.removeprefix(place)]), name
    tails = [name for name in ours if name.startswith("regions.box_head.layer4.")]
    own_tail = backbone == "resnet18" and system in ("rcnn", "fast_rcnn", "faster_rcnn")
    assert bool(tails) == own_tail
    for name in tails:
        assert torch.equal(ours[name], state[name.removeprefix("regions.box_head.")]), name
    assert module.weights == str(path)
    # on top of loaded weights the first stages are frozen, and of SPP-net all
    frozen = [p for p in module.detector.backbone.parameters() if not p.requires_grad]
    assert frozen
    assert (len(frozen) == len(list(module.detector.backbone.parameters()))) == (system == "sppnet")


def test_the_speed_of_the_config_reaches_module_and_process(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = built(composed, "speed.channels_last=false", "speed.compile=true")
    assert module.speed.compile
    assert module.get_parameter("detector.rpn.conv.weight").is_contiguous()
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    monkeypatch.setattr(build, "keep_freed_memory", lambda: asked.append("memory"))
    build_trainer(parse(composed("speed.matmul=high", "logger=none", "trainer=cpu")))
    assert asked == ["high", "memory"]
    build_trainer(parse(composed("speed.keep_memory=false", "logger=none", "trainer=cpu")))
    assert asked == ["high", "memory", "highest"]


def test_what_is_switched_off_takes_its_callback_along(composed: Compose) -> None:
    off = ("trainer.enable_progress_bar=false", "logger=none")
    trainer = build_trainer(parse(composed("trainer=cpu", *off)))
    kinds = {type(callback).__name__ for callback in trainer.callbacks}  # type: ignore[attr-defined]
    assert kinds.isdisjoint({"Progress", "LearningRateMonitor"})
    assert "Throughput" in kinds


def test_a_run_without_the_progress_callback_has_no_bar_at_all(composed: Compose) -> None:
    trainer = build_trainer(parse(composed("trainer=cpu", "callbacks.progress=null")))
    assert trainer.progress_bar_callback is None
    with_bar = build_trainer(parse(composed("trainer=cpu")))
    assert type(with_bar.progress_bar_callback) is Progress
