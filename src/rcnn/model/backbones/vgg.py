"""VGG-16 as in Fast and Faster R-CNN: conv1_1 to conv5_3 on the image, fc6 and fc7 on the RoIs.

Shapes: B images, H W their padded size, h w = H/16, W/16, R RoIs, S pooled size (7 in the papers).

Keys of torchvision's ``vgg16`` and where they go: ``features.*`` to ``backbone.features.*``,
``classifier.0.*`` to ``box_head.fc6.*``, ``classifier.3.*`` to ``box_head.fc7.*``.

Random weights are torchvision's: He's for convolutions, N(0, 0.01) for the linear layers.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from rcnn.model.backbones.backbone import (
    Backbone,
    BackboneSettings,
    SplitNetwork,
    freeze_stages,
    two_mlp_head,
)

CELLS, UNITS = 49, 4096
"""The pooled cells and the width of the linear layers of the pretrained networks."""


class VGGBackbone(Backbone):
    """The convolutions without the last pooling: one level of 512 channels, stride 16.

    The RoI pooling replaces the last pooling layer (Fast R-CNN, section 2.2).
    """

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__(strides=(16,), channels=512, roi_levels=1)
        self.features = features

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the one level."""
        return [self.features(pixels)]


def build_vgg(settings: BackboneSettings, cells: int) -> SplitNetwork:
    """Build ``vgg16`` or ``vgg16_bn`` with random weights.

    Pretrained weights fit fc6 and fc7 only where they are whole and have 4096 units, and fc6 only
    on 7 x 7 pooled cells, all of which it sees; a layer of another shape starts at random.
    """
    layers = make_layers(cfgs["D"], batch_norm=settings.name == "vgg16_bn")
    features: nn.Sequential = layers[:-1]
    freeze_stages(features, _blocks(features), settings)
    backbone = VGGBackbone(_pooled_first(features))
    box_head = two_mlp_head(settings, backbone.channels, cells, hidden=UNITS)
    _initialise(backbone)
    _initialise(box_head)
    names = {"features.": "backbone.features."}
    if _is_linear(box_head.fc6, backbone.channels * CELLS):
        names["classifier.0."] = "box_head.fc6."
    if _is_linear(box_head.fc7, UNITS):
        names["classifier.3."] = "box_head.fc7."
    return SplitNetwork(backbone, box_head, names)


def _is_linear(layer: nn.Module, inputs: int) -> bool:
    """Return whether a layer has the shape of a pretrained one."""
    return isinstance(layer, nn.Linear) and layer.weight.shape == (UNITS, inputs)


def _pooled_first(features: nn.Sequential) -> nn.Sequential:
    """Swap each pooling with the activation before it.

    The largest activation is the activation of the largest, which is a quarter of the work.
    """
    layers = list(features)
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            layers[i - 1 : i + 1] = layer, layers[i - 1]
    return nn.Sequential(*layers)


def _blocks(features: nn.Sequential) -> list[list[str]]:
    """Return the names of the layers of conv1_x to conv5_x; each block ends with its pooling."""
    blocks: list[list[str]] = [[]]
    for name, layer in features.named_children():
        blocks[-1].append(name)
        if isinstance(layer, nn.MaxPool2d):
            blocks.append([])
    return blocks


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
