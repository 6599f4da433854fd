"""Networks of known tensors that compute something else are found out."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from rcnn.interop import InteropError, from_torchvision

Assemble = Callable[..., FasterRCNN]


def test_another_stride_is_refused(assemble: Assemble) -> None:
    model = assemble("vgg16_c4")
    model.backbone.append(nn.MaxPool2d(2))
    with pytest.raises(InteropError, match=r"backbone.*\(1, 512, 2, 3\).*\(1, 512, 4, 6\)"):
        from_torchvision(model)


def test_another_activation_is_refused(assemble: Assemble) -> None:
    model = assemble("vgg16_c4")
    model.backbone[-1] = nn.ReLU6()
    model.backbone[-2].bias.detach().add_(10)
    with pytest.raises(InteropError, match=r"backbone.*computes something else"):
        from_torchvision(model)
    model = assemble("vgg16_c4")
    fc6, fc7 = model.roi_heads.box_head.fc6, model.roi_heads.box_head.fc7
    model.roi_heads.box_head = nn.Sequential(nn.Flatten(), fc6, nn.Tanh(), fc7, nn.ReLU())
    with pytest.raises(InteropError, match=r"box_head.*computes something else"):
        from_torchvision(model)


def test_pooling_from_other_levels_is_refused(assemble: Assemble) -> None:
    pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2)
    model = assemble("resnet18_fpn", box_roi_pool=pool)
    with pytest.raises(InteropError, match=r"featmap_names.*Supported is \['0', '1', '2', '3'\]"):
        from_torchvision(model)


def test_hand_made_anchors_are_refused(assemble: Assemble) -> None:
    model = assemble("resnet18_c4")
    model.rpn.anchor_generator.cell_anchors[0] += 1
    with pytest.raises(InteropError, match=r"cell_anchors\[0\]"):
        from_torchvision(model)


def test_a_wrong_number_of_anchor_levels_is_refused(assemble: Assemble) -> None:
    model = assemble("resnet18_fpn", rpn_anchor_generator=AnchorGenerator(((8,),), ((0.5, 1, 2),)))
    with pytest.raises(InteropError, match=r"A setting.*lists 1 levels"):
        from_torchvision(model)


def test_other_modules_around_the_same_layers_are_accepted(assemble: Assemble) -> None:
    """A ResNet cut up into lists, as many write it."""
    network = get_model("resnet18", weights=None)
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    stages = nn.Sequential(network.layer1, network.layer2, network.layer3)
    backbone = nn.Sequential(stem, stages)
    backbone.out_channels = 256
    head = nn.Sequential(network.layer4, nn.AdaptiveAvgPool2d(1))
    model = assemble("resnet18_c4", box_predictor=FastRCNNPredictor(512, 5))
    model.backbone, model.roi_heads.box_head = backbone, head
    detector = from_torchvision(model)
    assert detector.settings.backbone.name == "resnet18"
    assert torch.equal(detector.backbone.get_submodule("conv1").weight, network.conv1.weight)


def test_the_model_stays_as_it_is(assemble: Assemble) -> None:
    model = assemble("mobilenet_fpn").train()
    model.network.backbone["3"].eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    detector = from_torchvision(model)
    assert detector.training
    assert [part.training for part in model.modules()] == modes
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    detector.rpn.conv.weight.detach().zero_()
    assert model.rpn.head.conv[0][0].weight.any()


def test_other_detectors_are_refused() -> None:
    with pytest.raises(InteropError, match=r"detection.FasterRCNN is needed, not a Linear"):
        from_torchvision(nn.Linear(1, 1))
