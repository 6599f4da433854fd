"""Torchvision detectors with random weights that find many things, and pictures for them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import (
    FasterRCNN,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

# Many detections, few enough boxes to be fast; the samples are larger than what there is to sample.
# Some pictures are enlarged and one is shrunk; padded they are 160 pixels, on which the top of a
# pyramid has a grid of 3 cells, 53 pixels apart although its stride is 64.
SETTINGS: dict[str, Any] = {
    "num_classes": 5,
    "min_size": 130,
    "max_size": 160,
    "rpn_pre_nms_top_n_train": 400,
    "rpn_pre_nms_top_n_test": 300,
    "rpn_post_nms_top_n_train": 120,
    "rpn_post_nms_top_n_test": 100,
    "rpn_score_thresh": 0.05,
    "rpn_batch_size_per_image": 1_000_000,
    "box_batch_size_per_image": 1_000_000,
    "box_positive_fraction": 0.5,
    "box_score_thresh": 0.02,
    "box_detections_per_img": 500,
}
C4_ANCHORS = {"sizes": ((24, 48, 96),), "aspect_ratios": ((0.5, 1.0, 2.0, 3.0),)}


class Layer4Head(nn.Module):
    """The last stage of a ResNet on RoIs, as users write it."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, pooled: Tensor) -> Tensor:
        features: Tensor = self.layer4(pooled).mean(dim=(2, 3))
        return features


def c4_parts() -> dict[str, Any]:
    return {
        "rpn_anchor_generator": AnchorGenerator(**C4_ANCHORS),
        "box_roi_pool": MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
    }


def resnet50_fpn(**changes: Any) -> FasterRCNN:
    return fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **{**SETTINGS, **changes})


def mobilenet_fpn(**changes: Any) -> FasterRCNN:
    return fasterrcnn_mobilenet_v3_large_fpn(
        weights=None, weights_backbone=None, **{**SETTINGS, **changes}
    )


def mobilenet_320_fpn(**changes: Any) -> FasterRCNN:
    return fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, **{**SETTINGS, **changes}
    )


def resnet18_fpn(**changes: Any) -> FasterRCNN:
    """With frozen batch norms and two stages that do not learn, as its builder has it."""
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    anchors = AnchorGenerator(((12,), (16,), (24,), (32,), (48,)), ((0.5, 1.0, 2.0),) * 5)
    return FasterRCNN(backbone, **{**SETTINGS, "rpn_anchor_generator": anchors, **changes})


def resnet18_c4(**changes: Any) -> FasterRCNN:
    network = get_model("resnet18", weights=None, norm_layer=FrozenBatchNorm2d)
    head = Layer4Head(network.layer4)
    backbone = IntermediateLayerGetter(network, {"layer3": "0"})
    backbone.out_channels = 256
    predictor = FastRCNNPredictor(512, 5)
    few = {"rpn_post_nms_top_n_train": 60, "rpn_post_nms_top_n_test": 50}  # its head is slow
    arguments = {**SETTINGS, **c4_parts(), **few, "num_classes": None, "box_predictor": predictor}
    return FasterRCNN(backbone, box_head=head, **{**arguments, **changes})


def resnet18_c4_sequential(**changes: Any) -> FasterRCNN:
    """Layers in a row, which have numbers for names, and torchvision's own box head."""
    net = get_model("resnet18", weights=None)
    backbone: Any = nn.Sequential(
        net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3
    )
    backbone.out_channels = 256
    return FasterRCNN(backbone, **{**SETTINGS, **c4_parts(), **changes})


def vgg16_c4(**changes: Any) -> FasterRCNN:
    backbone: Any = make_layers(cfgs["D"])[
        :-1
    ]  # vgg16().features[:-1] without its large classifier
    for layer in backbone:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    backbone.out_channels = 512
    arguments = {**SETTINGS, **c4_parts(), "min_size": 80, "max_size": 128}  # its backbone is slow
    return FasterRCNN(backbone, **{**arguments, **changes})


BUILDERS: dict[str, Callable[..., FasterRCNN]] = {
    "resnet50_fpn": resnet50_fpn,
    "vgg16_c4": vgg16_c4,
    "mobilenet_fpn": mobilenet_fpn,
    "mobilenet_320_fpn": mobilenet_320_fpn,
    "resnet18_fpn": resnet18_fpn,
    "resnet18_c4": resnet18_c4,
    "resnet18_c4_sequential": resnet18_c4_sequential,
}


@pytest.fixture
def assemble() -> Callable[..., FasterRCNN]:
    """Builds a torchvision detector by the name of its backbone, with changed arguments."""

    def build(name: str, **changes: Any) -> FasterRCNN:
        torch.manual_seed(0)
        return BUILDERS[name](**changes)

    return build


@pytest.fixture
def images() -> list[Tensor]:
    """Three pictures of different sizes: soft blobs with grain."""
    generator = torch.Generator().manual_seed(1)
    pictures = []
    for height, width in ((100, 150), (240, 180), (120, 120)):
        blobs = torch.rand(1, 3, height // 15, width // 15, generator=generator)
        smooth = F.interpolate(blobs, size=(height, width), mode="bilinear")[0]
        grain = torch.rand(3, height, width, generator=generator)
        pictures.append(0.9 * smooth + 0.1 * grain)
    return pictures


@pytest.fixture
def lively(images: list[Tensor]) -> Callable[[FasterRCNN], FasterRCNN]:
    """Gives a detector random norms, and predictions that differ between cells.

    The norms' statistics are near those of the pictures, so that a deep random network neither
    explodes nor magnifies rounding.
    """

    def enliven(model: FasterRCNN) -> FasterRCNN:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for layer in model.modules():
                if hasattr(layer, "running_mean"):
                    layer.weight.uniform_(0.5, 1.0, generator=generator)
                    layer.bias.normal_(0, 0.1, generator=generator)
                    layer.momentum = 1.0  # the statistics become those of the pictures
            model.backbone.train()(model.transform(images)[0].tensors)
            for layer in model.modules():
                if hasattr(layer, "running_mean"):
                    layer.running_mean += (
                        torch.randn(layer.running_mean.shape, generator=generator) * 0.02
                    )
                    layer.running_var *= (
                        torch.rand(layer.running_var.shape, generator=generator) + 0.9
                    )
                    layer.momentum = 0.1
        rpn, predictor = model.rpn.head, model.roi_heads.box_predictor
        spread(model, images, [rpn.cls_logits, rpn.bbox_pred], [2.0, 0.3])
        spread(model, images, [predictor.cls_score, predictor.bbox_pred], [3.0, 1.0])
        return model.eval()

    return enliven


@torch.no_grad()
def spread(
    model: FasterRCNN, images: list[Tensor], layers: Sequence[Any], deviations: list[float]
) -> None:
    """Scale layers so that every output has mean 0 and a given deviation over the pictures."""
    outputs: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    hooks = [
        layer.register_forward_hook(
            lambda layer, _, output: outputs[layer].append(output.transpose(0, 1).flatten(1))
        )
        for layer in layers
    ]
    model.eval()(images)
    for layer, deviation, hook in zip(layers, deviations, hooks, strict=True):
        hook.remove()
        found = torch.cat(outputs[layer], dim=1)
        factor = deviation / found.std(dim=1)
        layer.weight.mul_(factor.view(-1, *(1,) * (layer.weight.ndim - 1)))
        layer.bias.sub_(found.mean(dim=1)).mul_(factor)
