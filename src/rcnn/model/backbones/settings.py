"""The settings of a backbone and the names of the shipped ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rcnn.settings import nearest, require

VGGS = ("vgg16", "vgg16_bn")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
RESNET_PYRAMIDS = tuple(f"{name}_fpn" for name in RESNETS)
MOBILENET_PYRAMIDS = ("mobilenet_v3_large_fpn",)
SHIPPED = VGGS + RESNETS + RESNET_PYRAMIDS + MOBILENET_PYRAMIDS


@dataclass(frozen=True)
class BackboneSettings:
    """Which network computes the features, and how much of it learns.

    ``norm`` and ``frozen_stages`` are wishes for a network that starts from loaded weights.
    :func:`rcnn.model.backbones.weights.resolve` turns them into what is built; the settled
    settings are those that belong into a checkpoint.

    Attributes:
        name: a shipped backbone, or the dotted path of a callable
            ``(settings: BackboneSettings, cells: int) -> Backbone``.
        norm: ``"batch"`` learns and counts statistics, ``"frozen"`` keeps both as loaded,
            ``"auto"`` is frozen on top of loaded weights and batch otherwise.
        frozen_stages: the number of leading stages that do not learn. A ResNet has 5 (the stem
            counts as one), VGG-16 has 5 blocks of convolutions (2 in the papers: conv1_x and
            conv2_x), MobileNetV3 has 6.
        tail: ``"own"`` is what the network has behind the cut: VGG's fc6 and fc7, a ResNet's
            layer4, two linear layers behind a feature pyramid. ``"linear"`` is two linear layers
            on the pooled cells in any case, which on a ResNet costs far less for each RoI.
        dropout: probability that an activation of VGG's fc6 and fc7, or of a ResNet's linear
            tail, is dropped.
        weights: ``"auto"`` takes ImageNet weights where they can be had and says loudly where
            not, ``"imagenet"`` insists on them, ``None`` starts at random, anything else is the
            path of a state dict in torchvision's names, or of a checkpoint of this package.
        hidden: width of fc6 and fc7; null: 4096 for VGG-16 (as pretrained), 1024 otherwise.
        ranks: of fc6 and fc7, each of which then is the product of two thinner layers (truncated
            SVD; Fast R-CNN, section 3.1); 0 leaves a layer whole, null both.
        fpn_channels: channels of every level of a feature pyramid.
        norm_eps: added to the variances before the root. torchvision's detectors use 1e-5, its
            Faster R-CNN of COCO (ResNet-50) 0; MobileNetV3 was pretrained with 1e-3.
    """

    name: str = "resnet18"
    norm: Literal["auto", "batch", "frozen"] = "auto"
    frozen_stages: int = 2
    tail: Literal["own", "linear"] = "own"
    dropout: float = 0.5
    weights: str | None = "auto"
    hidden: int | None = None
    ranks: tuple[int, int] | None = None
    fpn_channels: int = 256
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        require(
            self.name in SHIPPED or _is_dotted_path(self.name),
            "name",
            self.name,
            f"no backbone has this name{nearest(self.name, SHIPPED)} Shipped are "
            f"{', '.join(SHIPPED)}; your own is named by the dotted path of its callable",
        )
        require(
            self.norm in ("auto", "batch", "frozen"),
            "norm",
            self.norm,
            "choose one of 'auto', 'batch', 'frozen'",
        )
        require(self.frozen_stages >= 0, "frozen_stages", self.frozen_stages, "0 or more")
        require(self.tail in ("own", "linear"), "tail", self.tail, "choose 'own' or 'linear'")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")
        require(
            self.weights != "",
            "weights",
            self.weights,
            "'auto', 'imagenet', null or the path of a state dict or a checkpoint",
        )
        hidden = self.hidden
        require(hidden is None or hidden >= 1, "hidden", hidden, "1 or more, or null")
        self._check_ranks()
        require(self.fpn_channels >= 1, "fpn_channels", self.fpn_channels, "1 or more")
        require(
            self.norm_eps >= 0 and math.isfinite(self.norm_eps),
            "norm_eps",
            self.norm_eps,
            "a finite number, 0 or more",
        )

    def _check_ranks(self) -> None:
        if self.ranks is None:
            return
        usable = min(self.ranks) >= 0 and max(self.ranks) > 0
        require(usable, "ranks", self.ranks, "0 or more, at least one of them above 0, or null")
        layers = self.name not in RESNETS or self.tail == "linear"
        allowed = f"{self.name} has fc6 and fc7 only with backbone.tail=linear"
        require(layers, "ranks", self.ranks, allowed)

    @property
    def architecture(self) -> str | None:
        """Torchvision's name of the classification network inside; None for a user's own."""
        return self.name.removesuffix("_fpn") if self.name in SHIPPED else None


def _is_dotted_path(name: str) -> bool:
    return "." in name and all(part.isidentifier() for part in name.split("."))
