"""ResNets cut after the fourth stage ("C4"): layer4, or two linear layers, run on every RoI.

Shapes: B images, H W their padded size, R RoIs, S pooled size, F = 512 or 2048.

Keys of torchvision's ``resnet*`` and where they go: ``conv1``, ``bn1``, ``layer1``, ``layer2`` and
``layer3`` into ``backbone.*``, ``layer4.*`` to ``box_head.layer4.*``. Linear layers are in no file
and start at random. Random weights are torchvision's (He's, fan out; PyTorch's for linear layers).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import ResNet, get_model

from rcnn.model.backbones.backbone import (
    Backbone,
    BackboneSettings,
    BoxHead,
    SplitNetwork,
    freeze_stages,
    two_mlp_head,
)

STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))


class ResNetBackbone(Backbone):
    """The stem and three stages: one level of stride 16 with 256 or 1024 channels."""

    def __init__(self, network: ResNet) -> None:
        super().__init__(strides=(16,), channels=network.inplanes // 2, roi_levels=1)
        self.conv1 = network.conv1
        self.bn1 = network.bn1
        self.relu = network.relu
        self.maxpool = network.maxpool
        self.layer1 = network.layer1
        self.layer2 = network.layer2
        self.layer3 = network.layer3

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the one level."""
        # The largest activation is the activation of the largest, which is a quarter of the work.
        stem = self.relu(self.maxpool(self.bn1(self.conv1(pixels))))
        return [self.layer3(self.layer2(self.layer1(stem)))]


class Res5Head(BoxHead):
    """The last stage and the mean over its cells.

    The first block of the stage has a stride of 2, so that 7 x 7 pooled cells become 4 x 4
    (He et al., Deep Residual Learning, appendix A).
    """

    def __init__(self, network: ResNet) -> None:
        super().__init__(channels=network.inplanes)
        self.layer4 = network.layer4

    def forward(self, pooled: Float[Tensor, "R C S S"]) -> Float[Tensor, "R F"]:
        """Return one vector per RoI."""
        cells: Tensor = self.layer4(pooled)  # R C S S -> R F S/2 S/2
        return cells.mean(dim=(2, 3))


def build_resnet(settings: BackboneSettings, cells: int) -> SplitNetwork:
    """Build a C4 ResNet with random weights; layer4 takes pooled features of any size."""
    network: nn.Module = get_model(settings.name)
    own = settings.box_head == "own"
    freeze_stages(network, STAGES if own else STAGES[:4], settings)
    backbone = ResNetBackbone(network)
    names = {f"{name}.": f"backbone.{name}." for stage in STAGES[:4] for name in stage}
    if own:
        names["layer4."] = "box_head.layer4."
        return SplitNetwork(backbone, Res5Head(network), names)
    return SplitNetwork(backbone, two_mlp_head(settings, backbone.channels, cells), names)
