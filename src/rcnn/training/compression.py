"""Truncated SVD of the fully connected layers behind the RoI pooling (Fast R-CNN, section 3.1)."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import cast

from torch import Tensor, nn

from rcnn.model.backbones import BoxHead, TwoMLPHead
from rcnn.ops.svd import SingularValues, decompose, rank_for_energy, weight_count
from rcnn.settings import SettingsError, require
from rcnn.training.module import DetectionModule

Ranks = tuple[int, int]
"""Of fc6 and fc7; 0 leaves a layer whole."""

TAIL = "detector.roi_heads.box_head."


class TailSVD:
    """The singular values of a box head's two layers, each found when it is first asked for.

    For fc6 of VGG-16 that takes half a minute on one core; every truncation afterwards is a
    product of matrices.

    Args:
        module: with a box head of two whole linear layers.

    Raises:
        SettingsError: if its box head is another one.
    """

    def __init__(self, module: DetectionModule) -> None:
        box_head = compressible_tail(module)
        self._layers = linear_layers(box_head)

    @cached_property
    def fc6(self) -> SingularValues:
        """Of the layer on the pooled cells."""
        return decompose(self._layers[0].weight)

    @cached_property
    def fc7(self) -> SingularValues:
        """Of the second layer."""
        return decompose(self._layers[1].weight)

    def ranks_for_energy(self, share: float) -> Ranks:
        """Return the smallest ranks at which each layer keeps this share of its energy.

        The energy of a matrix is the sum of its squared singular values. A layer stays whole where
        the product would have as many weights.

        Raises:
            SettingsError: both layers would stay whole.
        """
        ranks = (_saving_rank(self.fc6, share), _saving_rank(self.fc7, share))
        allowed = "at ranks that keep it, fc6 and fc7 have as many weights as whole. Ask for less"
        require(any(ranks), "energy", share, allowed)
        return ranks


def _saving_rank(layer: SingularValues, share: float) -> int:
    """Return the smallest rank that keeps the share, or 0 if it saves no weights."""
    outputs, inputs = layer.weight.shape
    rank = rank_for_energy(layer.values, share)
    return rank if weight_count(inputs, outputs, rank) < weight_count(inputs, outputs) else 0


def compressible_tail(module: DetectionModule) -> TwoMLPHead:
    """Return the box head of a detector, if it consists of two whole linear layers.

    Raises:
        SettingsError: naming what to do instead.
    """
    backbone = module.settings.backbone
    regions = getattr(module.detector, "regions", None)
    if regions is None:
        raise SettingsError(f"system={module.system!r} has no layers behind a RoI pooling.")
    box_head: BoxHead = regions.box_head
    if not isinstance(box_head, TwoMLPHead):
        raise SettingsError(
            f"The box head of {backbone.name!r}, a {type(box_head).__name__}, has no fully connected "
            "layers to compress. A ResNet has them if it is trained with backbone.box_head=two_mlp."
        )
    if box_head.ranks is not None:
        raise SettingsError(
            f"The detector is compressed already, to the ranks {box_head.ranks}: give the one that it "
            "was made from."
        )
    return box_head


def linear_layers(box_head: TwoMLPHead) -> tuple[nn.Linear, nn.Linear]:
    """Return fc6 and fc7 of a box head whose layers are whole."""
    return cast(nn.Linear, box_head.fc6), cast(nn.Linear, box_head.fc7)


def tail_weight_count(box_head: TwoMLPHead, ranks: Ranks = (0, 0)) -> int:
    """Return the number of weights of fc6 and fc7 at these ranks, without biases."""
    return sum(
        weight_count(layer.in_features, layer.out_features, rank)
        for layer, rank in zip(linear_layers(box_head), ranks, strict=True)
    )


def compress(
    module: DetectionModule, ranks: Ranks, factors: TailSVD | None = None
) -> DetectionModule:
    """Return a module whose fc6 and fc7 are products of two thinner layers; nothing else changes.

    Its settings tell the ranks, so that its checkpoints load like any others, and it can be
    trained on.

    Args:
        module: stays as it is.
        ranks: of fc6 and fc7, 0 to leave one of them whole.
        factors: of ``module``, if it is compressed more than once.

    Raises:
        SettingsError: the box head cannot be compressed, or not to these ranks.
    """
    factors = factors or TailSVD(module)
    settings = replace(module.settings, backbone=replace(module.settings.backbone, ranks=ranks))
    state: dict[str, Tensor] = dict(module.state_dict())
    for name, rank in zip(("fc6", "fc7"), ranks, strict=True):
        if rank:
            key = f"{TAIL}{name}."
            values: SingularValues = getattr(factors, name)
            del state[f"{key}weight"]
            state[f"{key}first.weight"], state[f"{key}second.weight"] = values.truncated(rank)
            state[f"{key}second.bias"] = state.pop(f"{key}bias")
    return module.with_settings(settings, state=state)
