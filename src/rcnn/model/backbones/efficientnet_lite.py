"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation, ReLU6 throughout).

Shapes: B images, H W their padded size, C channels, R RoIs, S pooled size.

C4: the stem and blocks 0 to 10 (stride 16, 112 channels) run on the image, blocks 11 to 15 and the
last convolution on every RoI. With a pyramid all blocks run on the image.

Keys of the package's file and where they go: ``_conv_stem``, ``_bn0`` and ``_blocks.*`` to
``backbone.body.*``, those of the box head to ``box_head.layers.*``, in the order of the layers: the
stem is 0, block i is i + 1, the last convolution (``_conv_head``, ``_bn1``) is 17. Pyramid and
linear layers start at random. Random weights are PyTorch's.
"""

from __future__ import annotations

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rcnn.model.backbones.backbone import (
    Backbone,
    BackboneSettings,
    BoxHead,
    SplitNetwork,
    freeze_stages,
    two_mlp_head,
)
from rcnn.model.backbones.fpn import Trunk, feature_pyramid, pyramid_network, strided_stages

EPSILON = 1e-3
"""The number that the pretrained norms add to the variances."""

STEM_WIDTH, HEAD_WIDTH, EXPANSION = 32, 1280, 6

BLOCKS = (
    (3, 1, 16),
    *((3, 2, 24), (3, 1, 24)),
    *((5, 2, 40), (5, 1, 40)),
    *((3, 2, 80), (3, 1, 80), (3, 1, 80)),
    *((5, 1, 112), (5, 1, 112), (5, 1, 112)),
    *((5, 2, 192), (5, 1, 192), (5, 1, 192), (5, 1, 192)),
    (3, 1, 320),
)
"""Kernel size, stride and output channels of each block."""

C4_LAYERS = 12
"""The stem and the blocks of stride 16 and less."""


class SamePadding(nn.Module):
    """The zeros around a map that TensorFlow gives a convolution: the odd one at the end.

    Args:
        kernel: cells of the kernel's side.
        stride: stride of the convolution, which has ceil(H / stride) rows of output cells.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, cells: Float[Tensor, "B C _ _"]) -> Float[Tensor, "B C _ _"]:
        """Return the padded map."""
        height, width = (self.kernel - (n - 1) % self.stride - 1 for n in cells.shape[-2:])
        return F.pad(cells, (width // 2, width - width // 2, height // 2, height - height // 2))


class InvertedResidual(nn.Sequential):
    """A convolution of each channel by itself, between one that widens and one that narrows.

    The layers have the names of the pretrained file.

    Args:
        channels: channels of the input.
        kernel: cells of the kernel's side.
        stride: stride; with 1 and as many channels as the input, the input is added.
        out_channels: channels of the output.
        expansion: factor of the channels in between.
    """

    def __init__(
        self, channels: int, kernel: int, stride: int, out_channels: int, expansion: int
    ) -> None:
        wide = channels * expansion
        layers: dict[str, nn.Module] = {}
        if expansion > 1:
            layers |= {
                "expand_conv": nn.Conv2d(channels, wide, 1, bias=False),
                "bn0": nn.BatchNorm2d(wide, EPSILON),
                "relu0": nn.ReLU6(inplace=True),
            }
        layers |= {
            "padding": SamePadding(kernel, stride),
            "depthwise_conv": nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False),
            "bn1": nn.BatchNorm2d(wide, EPSILON),
            "relu1": nn.ReLU6(inplace=True),
            "project_conv": nn.Conv2d(wide, out_channels, 1, bias=False),
            "bn2": nn.BatchNorm2d(out_channels, EPSILON),
        }
        super().__init__(OrderedDict(layers))
        self.is_residual = stride == 1 and channels == out_channels

    def forward(self, cells: Float[Tensor, "B C _ _"]) -> Float[Tensor, "B _ _ _"]:
        """Return the cells of the block."""
        changed: Tensor = super().forward(cells)
        return cells + changed if self.is_residual else changed


class EfficientNetBackbone(Backbone):
    """The stem and the blocks up to stride 16: one level."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__(strides=(16,), channels=BLOCKS[C4_LAYERS - 2][2], roi_levels=1)
        self.body = layers

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the one level."""
        return [self.body(pixels)]


class EfficientNetHead(BoxHead):
    """The blocks of stride 32, the last convolution and the mean over its cells."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__(channels=HEAD_WIDTH)
        self.layers = layers

    def forward(self, pooled: Float[Tensor, "R C S S"]) -> Float[Tensor, "R F"]:
        """Return one vector per RoI."""
        cells: Tensor = self.layers(pooled)  # R C S S -> R F S/2 S/2
        return cells.mean(dim=(2, 3))


def build_efficientnet(settings: BackboneSettings, cells: int) -> SplitNetwork:
    """Build a C4 EfficientNet-Lite0 with random weights; its blocks take RoIs of any size."""
    layers = _layers()
    own = settings.box_head == "own"
    freeze_stages(layers, strided_stages(layers if own else layers[:C4_LAYERS]), settings)
    names = {
        theirs: ("backbone.body." if index < C4_LAYERS else "box_head.layers.") + f"{index}.{ours}"
        for theirs, index, ours in _weight_names()
    }
    backbone = EfficientNetBackbone(layers[:C4_LAYERS])
    if own:
        return SplitNetwork(backbone, EfficientNetHead(layers[C4_LAYERS:]), names)
    return SplitNetwork(backbone, two_mlp_head(settings, backbone.channels, cells), names)


def build_efficientnet_pyramid(settings: BackboneSettings, cells: int) -> SplitNetwork:
    """Build an EfficientNet-Lite0 with a pyramid on its blocks of strides 4, 8, 16 and 32."""
    layers = _layers()[:-1]
    stages = strided_stages(layers)
    freeze_stages(layers, stages, settings)
    kept = [stage[-1] for stage in stages[1:]]
    body = Trunk(dict(layers.named_children()), kept)
    widths = [BLOCKS[int(name) - 1][2] for name in kept]
    names = {theirs: f"{index}.{ours}" for theirs, index, ours in _weight_names()}
    fpn = feature_pyramid(settings, widths)
    return pyramid_network(settings, cells, body, fpn, strides=(4, 8, 16, 32), names=names)


def _layers() -> nn.Sequential:
    """Return the stem, the blocks and the last convolution."""
    widths = (STEM_WIDTH, *(width for _, _, width in BLOCKS))
    blocks = [
        InvertedResidual(channels, kernel, stride, width, expansion=EXPANSION if i else 1)
        for i, (channels, (kernel, stride, width)) in enumerate(zip(widths, BLOCKS, strict=False))
    ]
    stem = OrderedDict(
        padding=SamePadding(3, 2),
        conv_stem=nn.Conv2d(3, STEM_WIDTH, 3, 2, bias=False),
        bn0=nn.BatchNorm2d(STEM_WIDTH, EPSILON),
        relu=nn.ReLU6(inplace=True),
    )
    head = OrderedDict(
        conv_head=nn.Conv2d(widths[-1], HEAD_WIDTH, 1, bias=False),
        bn1=nn.BatchNorm2d(HEAD_WIDTH, EPSILON),
        relu=nn.ReLU6(inplace=True),
    )
    return nn.Sequential(nn.Sequential(stem), *blocks, nn.Sequential(head))


def _weight_names() -> list[tuple[str, int, str]]:
    """Return prefixes of the keys in the file, with the layer and the prefix inside of it."""
    last = len(BLOCKS) + 1
    return [
        *(("_conv_stem.", 0, "conv_stem."), ("_bn0.", 0, "bn0.")),
        *((f"_blocks.{i}._", i + 1, "") for i in range(len(BLOCKS))),
        *(("_conv_head.", last, "conv_head."), ("_bn1.", last, "bn1.")),
    ]
