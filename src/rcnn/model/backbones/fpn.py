"""Feature pyramids on ResNets and on MobileNetV3 (Lin et al., FPN), laid out as torchvision's.

Shapes: B images, H W their padded size, C channels of every level (256).

Keys of torchvision's detectors ``fasterrcnn_*_fpn`` and where they go: ``backbone.body.*`` to
``backbone.body.*``, ``backbone.fpn.*`` to ``backbone.fpn.*``, ``roi_heads.box_head.fc6.*`` and
``fc7.*`` to ``box_head.fc6.*`` and ``box_head.fc7.*``. Keys of its classification networks: those
of ``resnet*`` to ``backbone.body.*``, ``features.*`` of ``mobilenet_v3_large`` to
``backbone.body.*``. The pyramid and the box head are in no classification network and start at
random, as torchvision has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rcnn.model.backbones.backbone import (
    Backbone,
    BackboneSettings,
    SplitNetwork,
    freeze_stages,
    two_mlp_head,
)
from rcnn.model.backbones.resnet import STAGES


class Trunk(nn.ModuleDict):
    """Layers that run one after the other; the results of some of them are kept.

    Args:
        layers: layers by name, in order.
        kept: names of the layers that the pyramid is built on.
    """

    def __init__(self, layers: Mapping[str, nn.Module], kept: Sequence[str]) -> None:
        super().__init__(layers)
        self.kept = kept

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the kept feature maps, finest first."""
        maps, features = [], pixels
        for name, layer in self.items():
            features = layer(features)
            if name in self.kept:
                maps.append(features)
        return maps


class PyramidBackbone(Backbone):
    """A body, the pyramid on its feature maps, and a coarser last level that only the RPN sees.

    Args:
        body: module that turns images into a list of feature maps, finest first.
        fpn: module that turns the maps, by any names in this order, into one more level by name.
        strides: pixels per cell of the levels without the last one.
        channels: C.
    """

    def __init__(
        self, body: nn.Module, fpn: nn.Module, *, strides: tuple[int, ...], channels: int
    ) -> None:
        strides = (*strides, 2 * strides[-1])
        super().__init__(strides=strides, channels=channels, roi_levels=len(strides) - 1)
        self.body = body
        self.fpn = fpn

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of the body."""
        return self.body.parameters()

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the levels, finest first."""
        maps = {str(level): features for level, features in enumerate(self.body(pixels))}
        return list(self.fpn(maps).values())


def feature_pyramid(
    settings: BackboneSettings, widths: list[int], *, norm: bool = True
) -> FeaturePyramidNetwork:
    """Build a feature pyramid on maps of these numbers of channels, finest first.

    Args:
        settings: settings of the backbone.
        widths: channels of each map.
        norm: whether each convolution is followed by a layer norm. Maps that do not come out of a
            rectifier behind a norm, as a ResNet's do, may be ten times as large.
    """
    layer, channels = LayerNorm2d if norm else None, settings.fpn_channels
    return FeaturePyramidNetwork(widths, channels, LastLevelMaxPool(), norm_layer=layer)


def pyramid_network(
    settings: BackboneSettings,
    cells: int,
    body: nn.Module,
    fpn: nn.Module,
    *,
    strides: tuple[int, ...],
    names: Mapping[str, str],
) -> SplitNetwork:
    """Join a body, a pyramid, and a box head of two linear layers without dropout.

    Args:
        settings: settings of the backbone.
        cells: number of pooled cells of a RoI.
        body: see ``PyramidBackbone``.
        fpn: see ``PyramidBackbone``.
        strides: pixels per cell of the levels without the last one.
        names: prefixes of the keys in a file of pretrained weights, and of the same in ``body``.
    """
    channels = settings.fpn_channels
    backbone = PyramidBackbone(body, fpn, strides=strides, channels=channels)
    box_head = two_mlp_head(replace(settings, dropout=0.0), channels, cells)
    ours = {theirs: f"backbone.body.{name}" for theirs, name in names.items()}
    return SplitNetwork(backbone, box_head, ours)


def build_resnet_pyramid(settings: BackboneSettings, cells: int) -> SplitNetwork:
    """Build a ResNet with levels P2 to P5 and the extra one (strides 4 to 64)."""
    network = get_model(settings.name.removesuffix("_fpn"))
    freeze_stages(network, STAGES, settings)
    layers = dict(network.named_children())
    del layers["avgpool"], layers["fc"]
    body = Trunk(layers, kept=("layer1", "layer2", "layer3", "layer4"))
    widths = [network.inplanes // 8 * factor for factor in (1, 2, 4, 8)]
    fpn = feature_pyramid(settings, widths, norm=False)
    return pyramid_network(settings, cells, body, fpn, strides=(4, 8, 16, 32), names={"": ""})


def build_mobilenet_pyramid(settings: BackboneSettings, cells: int) -> SplitNetwork:
    """Build MobileNetV3-Large with a pyramid on its last two stages, both of stride 32.

    So does torchvision's detector, with norms of epsilon 1e-5.
    """
    # Its own default norm has other constants, which torchvision's detectors do not use either.
    network = get_model(settings.name.removesuffix("_fpn"), norm_layer=nn.BatchNorm2d)
    features: nn.Sequential = network.features
    stages = strided_stages(features)
    stages[-1:] = [stages[-1][:-1], stages[-1][-1:]]  # the last layer is a stage of its own
    freeze_stages(features, stages, settings)
    kept = (stages[-2][0], stages[-1][0])
    body = Trunk(dict(features.named_children()), kept)
    widths = [network.features[int(name)].out_channels for name in kept]
    fpn = feature_pyramid(settings, widths, norm=False)
    return pyramid_network(settings, cells, body, fpn, strides=(32, 32), names={"features.": ""})


def strided_stages(features: nn.Sequential) -> list[list[str]]:
    """Return the names of the layers in stages, each of which begins where the size halves."""
    stages: list[list[str]] = []
    for name, layer in features.named_children():
        if any(isinstance(part, nn.Conv2d) and part.stride[0] > 1 for part in layer.modules()):
            stages.append([])
        stages[-1].append(name)
    return stages
