"""Weights go there and come back under the same names."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN

from rcnn.interop import InteropError, from_torchvision, to_torchvision_state_dict
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.settings import SettingsError

Assemble = Callable[..., TorchvisionFasterRCNN]


@pytest.mark.parametrize("name", ["vgg16_c4", "mobilenet_fpn", "resnet18_fpn", "resnet18_c4"])
def test_there_and_back_is_the_same_state_dict(assemble: Assemble, name: str) -> None:
    model = assemble(name)
    for key, tensor in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            tensor.fill_(5)
        elif tensor.ndim == 1:
            tensor.uniform_(0.5, 1.0)
        else:
            tensor.normal_(std=0.02)
    expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = to_torchvision_state_dict(from_torchvision(model))
    assert set(state) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor), key
    assert model.load_state_dict(state).missing_keys == []


def test_settings_and_weights_are_all_that_a_detector_is_made_of(
    assemble: Assemble, images: list[Tensor]
) -> None:
    """What a checkpoint of a converted detector holds is enough to build it again."""
    detector = from_torchvision(assemble("resnet18_fpn").eval())
    again = FasterRCNN(detector.settings).eval()
    again.load_state_dict(detector.state_dict())
    for one, other in zip(detector.detect(images), again.detect(images), strict=True):
        assert len(one) > 0
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)


def test_the_state_dict_shares_no_memory_with_the_detector(assemble: Assemble) -> None:
    detector = from_torchvision(assemble("resnet18_c4"))
    before = detector.rpn.conv.weight.clone()
    for tensor in to_torchvision_state_dict(detector).values():
        tensor.zero_()
    assert torch.equal(detector.rpn.conv.weight, before)


def test_tensors_without_counterpart_are_named(assemble: Assemble) -> None:
    model = assemble("resnet18_c4")
    model.roi_heads.register_buffer("temperature", torch.ones(1))
    with pytest.raises(InteropError, match=r"no counterpart.*roi_heads.temperature.*rcnn: none"):
        from_torchvision(model)


def own(class_names: Sequence[str] = ("a", "b", "c", "d"), **changes: Any) -> FasterRCNN:
    """A detector as it is built here, with the paper's softmax."""
    torch.manual_seed(4)
    return FasterRCNN(
        DetectorSettings(
            **{
                "class_names": tuple(class_names),
                "backbone": BackboneSettings(
                    name="resnet18", norm="batch", weights=None, frozen_stages=0
                ),
                "anchors": AnchorSettings(sizes=((24.0, 48.0, 96.0),), ratios=(0.5, 1.0, 2.0, 3.0)),
                "rpn": RPNSettings(channels=256, objectness="softmax"),
                **changes,
            }
        )
    )


def test_softmax_objectness_becomes_a_sigmoid_of_the_same_value(assemble: Assemble) -> None:
    detector = own().eval()
    model = assemble("resnet18_c4")
    # Norms that count batches have a count that frozen ones pass over.
    model.load_state_dict(to_torchvision_state_dict(detector))
    level = torch.randn(1, 256, 3, 4)
    logits, deltas = model.rpn.head([level])
    ours = detector.rpn([level])
    order = [size * 4 + ratio for ratio in range(4) for size in range(3)]

    def per_cell(values: Tensor) -> Tensor:
        return values.unflatten(1, (3, 4, 12))[:, :, :, order]

    torch.testing.assert_close(
        logits[0].permute(0, 2, 3, 1), per_cell(ours.logits[0]), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        deltas[0].permute(0, 2, 3, 1).unflatten(3, (12, 4)),
        per_cell(ours.deltas[0]),
        atol=1e-6,
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rpn": RPNSettings(channels=64)}, "rpn.channels=64"),
        ({"rpn": RPNSettings(channels=256, branches="separate")}, "rpn.branches='separate'"),
        ({"head": BoxPredictorSettings(class_agnostic=True)}, "head.class_agnostic=True"),
        ({"deltas": DeltaSettings(mean=(0.0, 0.0, 0.1, 0.0))}, "deltas.mean="),
    ],
)
def test_what_torchvision_cannot_express_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        to_torchvision_state_dict(own(**changes))


def test_a_users_own_backbone_has_no_place_in_torchvisions_layout() -> None:
    detector = own()
    backbone = replace(detector.settings.backbone, name="someones_project.build")
    detector.settings = replace(detector.settings, backbone=backbone)
    with pytest.raises(SettingsError, match=r"backbone.name='someones_project.build'.*vgg16"):
        to_torchvision_state_dict(detector)
