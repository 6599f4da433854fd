"""Starting from a checkpoint of this package."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rcnn.model.backbones import (
    SplitNetwork,
    BackboneSettings,
    WeightsError,
    build_network,
    resolve,
)
from rcnn.settings import to_plain

LINEAR = BackboneSettings("resnet18", norm="batch", frozen_stages=0, box_head="two_mlp", hidden=8)
Write = Callable[[BackboneSettings], Path]


@pytest.fixture
def write(randomise: Callable[[nn.Module], dict[str, Tensor]], tmp_path: Path) -> Write:
    """Writes what a detector's checkpoint holds of its backbone, with known weights."""

    def checkpoint(settings: BackboneSettings, cells: int = 4) -> Path:
        backbone = build_network(settings, cells)
        state = {"detector.rpn.conv.weight": torch.ones(2)}
        for prefix, part in (("backbone", network.backbone), ("regions.box_head", network.box_head)):
            tensors = randomise(part)
            state |= {f"detector.{prefix}.{key}": value for key, value in tensors.items()}
        record = {"format": 1, "settings": {"backbone": to_plain(settings)}}
        path = tmp_path / "best.ckpt"
        torch.save({"state_dict": state, "rcnn": record, "epoch": 3}, path)
        return path

    return checkpoint


def started(path: Path, settings: BackboneSettings) -> tuple[SplitNetwork, str]:
    settled, loaded = resolve(replace(settings, weights=str(path)))
    backbone = build_network(settled, cells=4)
    return backbone, loaded.load_into(backbone)


def below(prefix: str, path: Path) -> dict[str, Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


@pytest.mark.parametrize("settings", [LINEAR, replace(LINEAR, box_head="own")])
def test_body_and_tail_of_a_checkpoint_are_taken(settings: BackboneSettings, write: Write) -> None:
    path = write(settings)
    backbone, sentence = started(path, settings)
    assert sentence == f"The backbone starts from the checkpoint {path}: backbone, box head."
    for part, prefix in ((network.backbone, "backbone"), (network.box_head, "regions.box_head")):
        theirs = below(f"detector.{prefix}.", path)
        assert part.state_dict().keys() == theirs.keys()
        for key, tensor in part.state_dict().items():
            torch.testing.assert_close(tensor, theirs[key], rtol=0, atol=0)


def test_a_compressed_tail_is_taken_by_one_of_the_same_ranks(write: Write) -> None:
    settings = replace(LINEAR, ranks=(3, 0))
    path = write(settings)
    backbone, _ = started(path, settings)
    theirs = below("detector.roi_heads.box_head.", path)
    torch.testing.assert_close(network.box_head.fc6.first.weight.data, theirs["fc6.first.weight"])


@pytest.mark.parametrize(
    "changes", [{"box_head": "own", "hidden": None}, {"hidden": 9}, {"ranks": (3, 3)}]
)
def test_a_tail_that_does_not_fit_starts_at_random_and_the_body_is_taken(
    changes: dict[str, object], write: Write
) -> None:
    path = write(LINEAR)
    backbone, sentence = started(path, replace(LINEAR, **changes))
    assert sentence.endswith(": backbone; box head starts at random.")
    theirs = below("detector.backbone.", path)
    torch.testing.assert_close(network.backbone.conv1.weight.data, theirs["conv1.weight"])


@pytest.mark.parametrize(("trained", "wished"), [("frozen", "batch"), ("batch", "frozen")])
def test_frozen_and_batch_norms_are_interchangeable(
    trained: str, wished: str, write: Write
) -> None:
    path = write(replace(LINEAR, norm=trained))
    backbone, _ = started(path, replace(LINEAR, norm=wished))
    theirs = below("detector.backbone.", path)
    torch.testing.assert_close(network.backbone.bn1.running_var, theirs["bn1.running_var"])
    assert isinstance(network.backbone.bn1, nn.BatchNorm2d) == (wished == "batch")


def test_norms_are_frozen_on_a_checkpoint_as_on_any_loaded_weights(write: Write) -> None:
    settled, _ = resolve(replace(LINEAR, norm="auto", frozen_stages=2, weights=str(write(LINEAR))))
    assert (settled.norm, settled.frozen_stages) == ("frozen", 2)


def test_another_architecture_is_an_error_that_names_both(write: Write) -> None:
    path = write(LINEAR)
    with pytest.raises(WeightsError, match=r"best\.ckpt has the backbone 'resnet18'.*'resnet34'"):
        resolve(BackboneSettings("resnet34", weights=str(path)))


def test_a_body_of_other_shapes_is_an_error(write: Write) -> None:
    pyramid = BackboneSettings("resnet18_fpn", norm="batch", fpn_channels=4, hidden=4)
    path = write(pyramid)
    with pytest.raises(WeightsError, match=r"backbone\.fpn.*in the file and .* in the network"):
        started(path, replace(pyramid, fpn_channels=5))
