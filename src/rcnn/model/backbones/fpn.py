"""Feature pyramids on ResNets and on MobileNetV3 (Lin et al., FPN), laid out as torchvision's.

Shapes: B images, H W their padded size, C channels of every level (256), R RoIs, S pooled size.

Keys of torchvision's detectors ``fasterrcnn_*_fpn`` and where they go: ``backbone.body.*`` to
``backbone.body.*``, ``backbone.fpn.*`` to ``backbone.fpn.*``, ``roi_heads.box_head.fc6.*`` and
``fc7.*`` to ``box_head.fc6.*`` and ``box_head.fc7.*``. Keys of its classification networks: those
of ``resnet*`` to ``backbone.body.*``, ``features.*`` of ``mobilenet_v3_large`` to
``backbone.body.*``. The pyramid and the box head are in no classification network and start at
random, as torchvision has them.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rcnn.model.backbones.backbone import (
    Backbone,
    BackboneSettings,
    SplitNetwork,
    TwoMLPHead,
    freeze_stages,
)
from rcnn.model.backbones.resnet import classification_resnet


class Trunk(nn.ModuleDict):
    """Layers that run one after the other; the results of some of them are kept.

    Args:
        layers: layers by name, in order.
        kept: names of the layers that the pyramid is built on.
    """

    def __init__(self, layers: Mapping[str, nn.Module], kept: tuple[str, ...]) -> None:
        super().__init__(layers)
        self.kept = kept

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> dict[str, Float[Tensor, "B _ _ _"]]:
        """Return the kept feature maps by the name of their layer."""
        maps, features = {}, pixels
        for name, layer in self.items():
            features = layer(features)
            if name in self.kept:
                maps[name] = features
        return maps


class PyramidBackbone(Backbone):
    """A trunk, the pyramid on top of it, and a coarser last level that only the RPN sees."""

    def __init__(
        self, trunk: Trunk, *, trunk_channels: list[int], strides: tuple[int, ...], channels: int
    ) -> None:
        super().__init__(
            strides=(*strides, 2 * strides[-1]), channels=channels, roi_levels=len(strides)
        )
        self.body = trunk
        self.fpn = FeaturePyramidNetwork(trunk_channels, channels, extra_blocks=LastLevelMaxPool())

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the levels, finest first."""
        return list(self.fpn(self.body(pixels)).values())


def build_resnet_pyramid(settings: BackboneSettings, cells: int) -> SplitNetwork:
    """Build a ResNet with levels P2 to P5 and the extra one (strides 4 to 64)."""
    network = classification_resnet(settings)
    layers = dict(network.named_children())
    del layers["avgpool"], layers["fc"]
    width = network.inplanes // 8
    backbone = PyramidBackbone(
        Trunk(layers, kept=("layer1", "layer2", "layer3", "layer4")),
        trunk_channels=[width, 2 * width, 4 * width, 8 * width],
        strides=(4, 8, 16, 32),
        channels=settings.fpn_channels,
    )
    return SplitNetwork(backbone, _mlp_head(settings, cells), {"": "backbone.body."})


def build_mobilenet_pyramid(settings: BackboneSettings, cells: int) -> SplitNetwork:
    """Build MobileNetV3-Large with a pyramid on its last two stages, both of stride 32.

    So does torchvision's detector, with norms of epsilon 1e-5.
    """
    # Its own default norm has other constants, which torchvision's detectors do not use either.
    network = get_model(settings.architecture, weights=None, norm_layer=nn.BatchNorm2d)
    features: nn.Sequential = network.features
    stages = _strided_stages(features)
    freeze_stages(features, stages, settings)
    kept = (stages[-2][0], stages[-1][0])
    backbone = PyramidBackbone(
        Trunk(dict(features.named_children()), kept=kept),
        trunk_channels=[network.features[int(name)].out_channels for name in kept],
        strides=(32, 32),
        channels=settings.fpn_channels,
    )
    return SplitNetwork(backbone, _mlp_head(settings, cells), {"features.": "backbone.body."})


def _strided_stages(features: nn.Sequential) -> list[list[str]]:
    """Return layer names, in stages that begin where the size halves; the last layer is its own."""
    stages: list[list[str]] = []
    last = str(len(features) - 1)
    for name, layer in features.named_children():
        halves = any(isinstance(part, nn.Conv2d) and part.stride[0] > 1 for part in layer.modules())
        if halves or name == last:
            stages.append([])
        stages[-1].append(name)
    return stages


def _mlp_head(settings: BackboneSettings, cells: int) -> TwoMLPHead:
    return TwoMLPHead(
        in_channels=settings.fpn_channels,
        cells=cells,
        hidden=settings.hidden or 1024,
        dropout=0.0,
        ranks=settings.ranks,
    )
