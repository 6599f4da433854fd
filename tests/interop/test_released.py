"""State dicts of torchvision's builders, from files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from rcnn.interop import InteropError, from_torchvision, load_torchvision
from rcnn.interop.class_names import coco_names
from rcnn.model.backbones.backbone import freeze_norms

Assemble = Callable[..., FasterRCNN]


@pytest.fixture
def mobilenet(assemble: Assemble) -> FasterRCNN:
    return assemble("mobilenet_fpn")


def _old_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys that torchvision had before its RPN could have several convolutions."""
    return {
        key.replace("rpn.head.conv.0.0.", "rpn.head.conv.").replace("_blocks.0.0.", "_blocks.0."): t
        for key, t in state.items()
    }


def test_a_file_gives_what_the_model_gives(
    mobilenet: FasterRCNN, tmp_path: Path, images: list[Tensor]
) -> None:
    path = tmp_path / "model.pth"
    torch.save(mobilenet.state_dict(), path)
    detector = load_torchvision(path, "fasterrcnn_mobilenet_v3_large_320_fpn", ["a", "b", "c", "d"])
    assert not detector.training
    assert detector.settings.class_names == ("a", "b", "c", "d")
    # the settings of the builder, not those of the model that the weights come from
    assert (detector.settings.images.shorter_side, detector.settings.images.longer_side) == (
        320,
        640,
    )
    assert detector.settings.proposals.score == 0.05
    assert detector.settings.proposals.before_nms_test == 150
    expected = from_torchvision(mobilenet)
    assert detector.settings.backbone == expected.settings.backbone
    state = detector.state_dict()
    assert set(state) == set(expected.state_dict())
    for key, tensor in expected.state_dict().items():
        assert torch.equal(state[key], tensor), key


def test_older_keys_and_a_training_checkpoint_are_understood(
    mobilenet: FasterRCNN, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": _old_layout(mobilenet.state_dict()), "epoch": 3}, path)
    detector = load_torchvision(str(path), "fasterrcnn_mobilenet_v3_large_fpn")
    assert detector.settings.class_names == ("class 1", "class 2", "class 3", "class 4")
    assert detector.settings.images.shorter_side == 800
    assert torch.equal(detector.rpn.conv.weight, mobilenet.rpn.head.conv[0][0].weight)


def test_frozen_norms_stay_frozen(mobilenet: FasterRCNN) -> None:
    state = freeze_norms(mobilenet).state_dict()
    name = "fasterrcnn_mobilenet_v3_large_fpn"
    settings = load_torchvision(state, name).settings.backbone
    assert (settings.norm, settings.norm_eps, settings.frozen_stages) == ("frozen", 1e-5, 0)
    assert load_torchvision(state, name, norm_eps=0.001).settings.backbone.norm_eps == 0.001


def test_the_released_coco_weights_have_names_and_no_epsilon(assemble: Assemble) -> None:
    """``fasterrcnn_resnet50_fpn_coco-258fb6c6.pth``: 91 rows, frozen norms, older keys."""
    model = assemble("resnet50_fpn", num_classes=91)
    state = _old_layout(freeze_norms(model).state_dict())
    detector = load_torchvision(state, "fasterrcnn_resnet50_fpn")
    assert detector.settings.class_names == coco_names()
    assert (detector.settings.backbone.norm, detector.settings.backbone.norm_eps) == ("frozen", 0.0)
    assert torch.equal(
        detector.roi_heads.box_predictor.cls_score.bias, state["roi_heads.box_predictor.cls_score.bias"]
    )


def test_an_epsilon_that_cannot_be_known_is_asked_for(assemble: Assemble) -> None:
    state = freeze_norms(assemble("resnet50_fpn")).state_dict()
    with pytest.raises(InteropError, match=r"norm_eps=0.0 .* norm_eps=1e-5"):
        load_torchvision(state, "fasterrcnn_resnet50_fpn")


def test_given_epsilon_also_holds_for_norms_that_learn(mobilenet: FasterRCNN) -> None:
    detector = load_torchvision(
        mobilenet.state_dict(), "fasterrcnn_mobilenet_v3_large_fpn", norm_eps=0.001
    )
    assert (detector.settings.backbone.norm, detector.settings.backbone.norm_eps) == (
        "batch",
        0.001,
    )


@pytest.mark.parametrize("builder", ["fasterrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50"])
def test_other_builders_are_refused(mobilenet: FasterRCNN, builder: str) -> None:
    with pytest.raises(InteropError, match=r"did you mean 'fasterrcnn_resnet50_fpn'\? Supported"):
        load_torchvision(mobilenet.state_dict(), builder)


def test_weights_of_another_builder_are_refused(mobilenet: FasterRCNN) -> None:
    with pytest.raises(
        InteropError, match=r"(?s)does not fit fasterrcnn_resnet50_fpn: .*Missing key"
    ):
        load_torchvision(mobilenet.state_dict(), "fasterrcnn_resnet50_fpn")


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    builder = "fasterrcnn_mobilenet_v3_large_fpn"
    with pytest.raises(InteropError, match=r"no file .*nowhere.pth"):
        load_torchvision(tmp_path / "nowhere.pth", builder)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not a file of torch")
    with pytest.raises(InteropError, match=r"broken.pth cannot be read"):
        load_torchvision(broken, builder)
    numbers = tmp_path / "numbers.pth"
    torch.save([1, 2, 3], numbers)
    with pytest.raises(InteropError, match=r"numbers.pth holds no state dict"):
        load_torchvision(numbers, builder)
    classifier = tmp_path / "classifier.pth"
    torch.save({"fc.weight": torch.zeros(3, 2)}, classifier)
    with pytest.raises(InteropError, match=r"it has no roi_heads.*but fc.weight"):
        load_torchvision(classifier, builder)
