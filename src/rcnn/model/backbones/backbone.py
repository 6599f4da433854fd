"""A network cut in two: the backbone sees images, the box head sees RoIs.

Letters: B images, (H, W) of the batch, C channels of the features, R RoIs, F features of a RoI.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.settings import FractionBelowOne, nearest, require, settings

VGGS = ("vgg16", "vgg16_bn")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
RESNET_PYRAMIDS = tuple(f"{name}_fpn" for name in RESNETS)
MOBILENET_PYRAMIDS = ("mobilenet_v3_large_fpn",)
EFFICIENTNET, EFFICIENTNET_PYRAMID = "efficientnet_lite0", "efficientnet_lite0_fpn"

TORCHVISION = VGGS + RESNETS + RESNET_PYRAMIDS + MOBILENET_PYRAMIDS
"""The backbones that are torchvision's, as are their weights."""

SHIPPED = (*TORCHVISION, EFFICIENTNET, EFFICIENTNET_PYRAMID)

TIMM = "timm/"
"""How the name of a backbone begins that the package timm builds."""


@settings
class BackboneSettings:
    """The network that computes the features, and how much of it is trained.

    ``norm`` and ``frozen_stages`` are meant for a network that starts from loaded weights.
    ``rcnn.model.backbones.weights.resolve`` turns them into what is built; a checkpoint holds
    the resolved settings.

    Attributes:
        name: a shipped backbone; ``timm/<model>`` (its features of stride 16) or
            ``timm/<model>_fpn`` (a pyramid on it) for a model of the package timm, such as
            ``timm/convnext_tiny_fpn``; or the dotted path of a callable
            ``(settings: BackboneSettings, cells: int) -> SplitNetwork``.
        norm: ``batch``: batch norms are trained and update their statistics; ``frozen``: both stay
            as loaded; ``auto``: frozen on top of loaded weights, batch otherwise.
        frozen_stages: number of leading stages that are not trained. A ResNet has 5 (the stem
            counts as one), VGG-16 has 5 blocks of convolutions (2 in the papers: conv1_x and
            conv2_x), EfficientNet-Lite 5 (each begins where the size halves), MobileNetV3 6, and a
            model of timm those that timm groups its layers into (a ViT the patch embedding and
            every block).
        box_head: ``own``: the part of the network behind the cut (VGG's fc6 and fc7, a ResNet's
            layer4, the last blocks of EfficientNet-Lite; two linear layers behind a feature pyramid
            or a model of timm); ``two_mlp``: two linear layers on the pooled cells in any case,
            which cost far less per RoI than convolutions.
        dropout: dropout probability of VGG's fc6 and fc7, and of ``two_mlp`` without a pyramid.
        weights: ``auto``: ImageNet weights if they can be found, otherwise random weights and a
            warning; ``imagenet``: ImageNet weights or an error; null: random weights; anything
            else: path of a state dict in the names of torchvision (of timm for its models), or of a
            checkpoint of this package.
        hidden: width of fc6 and fc7; null: 4096 for VGG-16 (as pretrained), 1024 otherwise.
        ranks: ranks of fc6 and fc7, each of which is then the product of two thinner layers
            (truncated SVD; Fast R-CNN, section 3.1); 0 leaves a layer whole, null both.
        fpn_channels: channels of every level of a feature pyramid.
        norm_eps: number added to the variances before the root; null: 1e-5 as in torchvision's
            detectors, 1e-3 for EfficientNet-Lite, timm's own for its models. torchvision's Faster
            R-CNN of COCO (ResNet-50) has 0.
    """

    name: str = "resnet18"
    norm: Literal["auto", "batch", "frozen"] = "auto"
    frozen_stages: NonNegativeInt = 2
    box_head: Literal["own", "two_mlp"] = "own"
    dropout: FractionBelowOne = 0.5
    weights: Annotated[str, Field(min_length=1)] | None = "auto"
    hidden: PositiveInt | None = None
    ranks: tuple[NonNegativeInt, NonNegativeInt] | None = None
    fpn_channels: PositiveInt = 256
    norm_eps: NonNegativeFloat | None = None

    def __post_init__(self) -> None:
        name = self.name
        dotted = "." in name and all(part.isidentifier() for part in name.split("."))
        allowed = (
            f"no backbone has this name{nearest(name, SHIPPED)} Shipped are {', '.join(SHIPPED)}; "
            "timm/<model> is one of timm, and your own is named by the dotted path of its callable"
        )
        require(name in SHIPPED or name.startswith(TIMM) or dotted, "name", name, allowed)
        if self.ranks is None:
            return
        allowed = "at least one should be above 0; null leaves both layers whole"
        require(max(self.ranks) > 0, "ranks", self.ranks, allowed)
        convolves = name in (*RESNETS, EFFICIENTNET) and self.box_head == "own"
        allowed = f"{name} has fc6 and fc7 only with backbone.box_head=two_mlp"
        require(not convolves, "ranks", self.ranks, allowed)


class Backbone(nn.Module):
    """Turns normalised images into the feature maps that the RPN and the RoI pooling share.

    Args:
        strides: pixels of the image per cell, for each level.
        channels: C, the same on all levels.
        roi_levels: number of the leading levels that RoIs are pooled from; the RPN reads all.
    """

    def __init__(self, *, strides: tuple[int, ...], channels: int, roi_levels: int) -> None:
        super().__init__()
        if not 1 <= roi_levels <= len(strides):
            raise ValueError(
                f"roi_levels={roi_levels} is not possible: a backbone with strides {strides} pools "
                f"from 1 to {len(strides)} levels."
            )
        self.strides = strides
        self.channels = channels
        self.roi_levels = roi_levels
        self.frozen = False

    @property
    def roi_strides(self) -> tuple[int, ...]:
        """Pixels per cell of the levels that RoIs are pooled from."""
        return self.strides[: self.roi_levels]

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that a classification network has, too: those without a pyramid."""
        return self.parameters()

    def freeze(self) -> None:
        """Stop training for good: no gradients, and norms that keep their statistics.

        Layers that two tasks share stay as they are while one of them is trained (Faster R-CNN,
        section 3.2; SPP-net).
        """
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training, unless frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the levels, finest first."""
        raise NotImplementedError


class BoxHead(nn.Module):
    """Turns the pooled features of each RoI into the vector that the box predictor reads.

    Args:
        channels: F.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, pooled: Float[Tensor, "R C _ _"]) -> Float[Tensor, "R F"]:
        """Return one vector per RoI."""
        raise NotImplementedError


def _own_names() -> Mapping[str, str]:
    return {"backbone.": "backbone.", "box_head.": "box_head."}


@dataclass(frozen=True)
class SplitNetwork:
    """A network, cut where the RoI pooling is inserted.

    Attributes:
        backbone: the part that runs once on the images.
        box_head: the part that runs on every RoI.
        weight_names: prefixes of the keys in a file of pretrained weights, and of the same tensors
            here. Tensors that no prefix covers start at random. By default a file has the names
            of this network, ``backbone.*`` and ``box_head.*``.
    """

    backbone: Backbone
    box_head: BoxHead
    weight_names: Mapping[str, str] = field(default_factory=_own_names)


def freeze_norms(module: nn.Module) -> nn.Module:
    """Replace every batch norm inside ``module`` by one with fixed statistics and weights.

    Works in place, except that a batch norm itself is returned as a new module.
    """
    if isinstance(module, nn.BatchNorm2d):
        frozen: nn.Module = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        for name in ("weight", "bias", "running_mean", "running_var"):
            setattr(frozen, name, getattr(module, name).detach())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_norms(child))
    return module


def freeze_stages(
    network: nn.Module, stages: Sequence[Sequence[str]], settings: BackboneSettings
) -> None:
    """Give a classification network the norms of ``settings`` and freeze its first stages.

    All of a frozen stage is frozen: its batch norms keep their weights and statistics, even if
    those of later stages are trained.

    Args:
        network: network with norms of type ``BatchNorm2d``, changed in place.
        stages: names of the children of ``network`` that form each stage, in order.
        settings: settings of which ``norm`` ("auto" counts as "batch"), ``norm_eps`` and
            ``frozen_stages`` are read.

    Raises:
        SettingsError: ``frozen_stages`` is larger than the number of stages.
    """
    check_frozen_stages(settings, len(stages))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and settings.norm_eps is not None:
            module.eps = settings.norm_eps
    if settings.norm == "frozen":
        freeze_norms(network)
    for name in chain.from_iterable(stages[: settings.frozen_stages]):
        stage = freeze_norms(network.get_submodule(name))
        setattr(network, name, stage.requires_grad_(False))


def check_frozen_stages(settings: BackboneSettings, stages: int) -> None:
    """Refuse to freeze more stages than a network has."""
    frozen, allowed = settings.frozen_stages, f"{settings.name} has {stages} stages"
    require(frozen <= stages, "backbone.frozen_stages", frozen, allowed)


class TwoMLPHead(BoxHead):
    """Two linear layers, each followed by ReLU and dropout.

    With 4096 units this is fc6 and fc7 of VGG-16 (Fast R-CNN, section 2.2), with 1024 units and
    no dropout the box head of feature pyramid networks (FPN, section 4.2).

    A layer with a rank is two linear layers, ``first`` without bias and ``second`` with it, and
    nothing between them (truncated SVD; Fast R-CNN, section 3.1).

    Args:
        in_channels: C.
        cells: number of pooled cells of a RoI, 49 for 7 x 7.
        hidden: F.
        dropout: probability that an activation is dropped in training.
        ranks: ranks of fc6 and fc7, 0 for a whole layer; None: both are whole.

    Raises:
        SettingsError: a rank is larger than a matrix of the layer's shape can have.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        cells: int,
        hidden: int,
        dropout: float,
        ranks: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(channels=hidden)
        self.ranks = ranks
        first, second = ranks or (0, 0)
        self.fc6 = self._layer("fc6", in_channels * cells, hidden, first)
        self.fc7 = self._layer("fc7", hidden, hidden, second)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Float[Tensor, "R C h w"]) -> Float[Tensor, "R F"]:
        """Return one vector per RoI."""
        hidden = self.dropout(F.relu(self.fc6(pooled.flatten(1))))  # R C h w -> R F
        features: Tensor = self.dropout(F.relu(self.fc7(hidden)))
        return features

    def _layer(self, name: str, inputs: int, outputs: int, rank: int) -> nn.Module:
        if rank == 0:
            return nn.Linear(inputs, outputs)
        largest = min(inputs, outputs)
        allowed = (
            f"{name} ({inputs} to {outputs}) has rank {largest} at most, and 0 leaves it whole"
        )
        require(0 < rank <= largest, "backbone.ranks", self.ranks, allowed)
        first, second = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)
        return nn.Sequential(OrderedDict(first=first, second=second))


def two_mlp_head(
    settings: BackboneSettings, in_channels: int, cells: int, *, hidden: int = 1024
) -> TwoMLPHead:
    """Build two linear layers of the width, dropout and ranks that ``settings`` name.

    Args:
        settings: settings of the backbone.
        in_channels: C.
        cells: number of pooled cells of a RoI.
        hidden: F, unless ``settings`` name it.
    """
    return TwoMLPHead(
        in_channels=in_channels,
        cells=cells,
        hidden=settings.hidden or hidden,
        dropout=settings.dropout,
        ranks=settings.ranks,
    )
