"""Bodies of the package timm, with one level of stride 16 or with a feature pyramid.

A network with maps of several strides gets the pyramid of ResNets (Lin et al., FPN). A plain vision
transformer gets that of ViTDet (Li et al. 2022, Exploring Plain Vision Transformer Backbones for
Object Detection, section 3), which is made of its last map alone.

Shapes: B images, H W their padded size, D channels of the body, C channels of every level.

Keys of timm's models stay as they are, below ``backbone.body.model.*``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from rcnn.model.backbones.backbone import (
    TIMM,
    Backbone,
    BackboneSettings,
    SplitNetwork,
    check_frozen_stages,
    two_mlp_head,
)
from rcnn.model.backbones.fpn import feature_pyramid, pyramid_network
from rcnn.settings import SettingsError, nearest, require

C4_STRIDE = 16
PYRAMID_STRIDES = (4, 8, 16, 32)

ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})
"""Options with which timm's transformers, built for one size of images, take any."""


class TimmBody(nn.Module):
    """A model of timm up to the last of the feature maps that are used.

    Args:
        model: model of timm, of which the layers behind the last map are removed.
        indices: indices of the maps in ``model.feature_info``.
    """

    def __init__(self, model: Any, indices: list[int]) -> None:
        super().__init__()
        model.prune_intermediate_layers(indices, prune_norm=True)
        self.model = model
        self.indices = indices

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the feature maps, finest first."""
        maps: list[Tensor] = self.model.forward_intermediates(
            pixels, indices=self.indices, output_fmt="NCHW", intermediates_only=True
        )
        return maps


class TimmBackbone(Backbone):
    """A body with one feature map, and a layer norm, as maps of timm's models differ in size."""

    def __init__(self, body: TimmBody, *, stride: int, channels: int) -> None:
        super().__init__(strides=(stride,), channels=channels, roi_levels=1)
        self.body = body
        self.norm = LayerNorm2d(channels)

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of the body."""
        return self.body.parameters()

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the one level."""
        return [self.norm(cells) for cells in self.body(pixels)]


class SimplePyramid(nn.Module):
    """Levels of 4, 2, 1, 1/2 and 1/4 times the resolution of one map (ViTDet, section 3).

    Args:
        in_channels: D.
        channels: C.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half, quarter = in_channels // 2, in_channels // 4
        finest = (
            nn.ConvTranspose2d(in_channels, half, 2, stride=2),
            LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                *resize,
                nn.Conv2d(width, channels, 1, bias=False),
                LayerNorm2d(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels),
            )
            for width, resize in (
                (quarter, finest),
                (half, (nn.ConvTranspose2d(in_channels, half, 2, stride=2),)),
                (in_channels, ()),
                (in_channels, (nn.MaxPool2d(2),)),
            )
        )
        self.coarsest = nn.MaxPool2d(1, stride=2)

    def forward(self, maps: Mapping[str, Float[Tensor, "B D h w"]]) -> dict[str, Tensor]:
        """Return the levels by their number, finest first, of a mapping with one map."""
        (cells,) = maps.values()
        levels = [level(cells) for level in self.levels]
        return {str(i): level for i, level in enumerate([*levels, self.coarsest(levels[-1])])}


def build_timm(settings: BackboneSettings, cells: int) -> SplitNetwork:
    """Build a model of timm with random weights; nothing is downloaded.

    Raises:
        SettingsError: timm is not installed, has no such model, or one without usable maps; or
            ``frozen_stages`` is larger than the number of groups of its layers.
    """
    name, pyramid = settings.name, settings.name.endswith("_fpn")
    model = create_model(name)
    usable = hasattr(model, "forward_intermediates")
    require(usable, "backbone.name", name, "the model gives no feature maps; choose another")
    # Of several maps of one stride the last counts. A plain transformer has one stride.
    last = {info["reduction"]: index for index, info in enumerate(model.feature_info)}
    plain = len(last) == 1
    wanted = PYRAMID_STRIDES if pyramid else (C4_STRIDE,)
    strides = tuple(stride for stride in sorted(last) if plain or stride in wanted)
    allowed = f"its maps have strides {sorted(last)}, and one of {wanted} is needed"
    require(bool(strides), "backbone.name", name, allowed)
    widths = [model.feature_info[last[stride]]["num_chs"] for stride in strides]
    body = TimmBody(model, [last[stride] for stride in strides])
    freeze_model(body.model, settings)

    if not pyramid:
        backbone = TimmBackbone(body, stride=strides[0], channels=widths[0])
        box_head = two_mlp_head(settings, widths[0], cells)
        return SplitNetwork(backbone, box_head, {"": "backbone.body.model."})
    if plain:
        (stride,), allowed = strides, f"its stride of {strides[0]} cannot be divided by 4"
        require(stride % 4 == 0, "backbone.name", name, allowed)
        strides = (stride // 4, stride // 2, stride, 2 * stride)
        fpn: nn.Module = SimplePyramid(widths[0], settings.fpn_channels)
    else:
        fpn = feature_pyramid(settings, widths)
    return pyramid_network(settings, cells, body, fpn, strides=strides, names={"": "model."})


def freeze_model(model: Any, settings: BackboneSettings) -> None:
    """Give a model of timm the norms of ``settings`` and freeze its first groups of layers.

    See ``rcnn.model.backbones.backbone.freeze_stages``; timm's norms may end in an activation.
    """
    from timm.layers.norm_act import freeze_batch_norm_2d
    from timm.models import group_parameters

    stages = [*group_parameters(model, model.group_matcher(coarse=True)).values()]
    check_frozen_stages(settings, len(stages))
    frozen = {name for stage in stages[: settings.frozen_stages] for name in stage}
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = layer.eps if settings.norm_eps is None else settings.norm_eps
            if settings.norm == "frozen" or f"{name}.weight" in frozen:
                model.set_submodule(name, freeze_batch_norm_2d(layer))


def create_model(name: str, *, pretrained: bool = False) -> Any:
    """Return timm's model without its classifier, for images of any size.

    Args:
        name: name of the backbone.
        pretrained: whether it has timm's weights, from the network or the cache of the hub.

    Raises:
        SettingsError: timm is not installed or has no such model, or the model takes images of one
            size only.
    """
    config = pretrained_config(name)
    import timm

    for option in ANY_SIZE if config.fixed_input_size else ({},):
        try:
            return timm.create_model(_model(name), pretrained, num_classes=0, **option)
        except TypeError:  # the model does not know the option
            continue
    raise SettingsError(
        f"backbone.name={name!r} is not possible: the model takes images of one size only."
    )


def pretrained_config(name: str) -> Any:
    """Return timm's record of a model and its weights: how images are normalised, and their size.

    Raises:
        SettingsError: timm is not installed or has no such model or weights.
    """
    try:
        import timm
    except ImportError as error:
        raise SettingsError(
            f"backbone.name={name!r} is not possible: it needs the package timm, which "
            f"`pip install 'rcnn[timm]'` installs ({error})."
        ) from error
    model = _model(name)
    allowed = f"timm has no such model{nearest(model, timm.list_models())} timm.list_models() lists"
    require(timm.is_model(model), "backbone.name", name, f"{allowed} them")
    try:
        return timm.get_pretrained_cfg(model)
    except RuntimeError as error:  # the part behind the point names no weights of the model
        raise SettingsError(f"backbone.name={name!r} is not possible: {error}") from error


def _model(name: str) -> str:
    return name.removeprefix(TIMM).removesuffix("_fpn")
