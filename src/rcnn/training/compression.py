"""Truncated SVD of the fully connected layers behind the RoI pooling (Fast R-CNN, section 3.1)."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import cast

from torch import Tensor, nn

from rcnn.model.backbones import FullyConnectedTail, Tail
from rcnn.ops.svd import SingularValues, decompose, rank_for_energy, weight_count
from rcnn.settings import SettingsError, require
from rcnn.training.module import DetectionModule

Ranks = tuple[int, int]
"""Of fc6 and fc7; 0 leaves a layer whole."""

TAIL = "detector.regions.tail."


class TailSVD:
    """The singular values of a tail's two layers, each found when it is first asked for.

    For fc6 of VGG-16 that takes half a minute on one core; every truncation afterwards is a
    product of matrices.

    Args:
        module: with a tail of two whole linear layers.

    Raises:
        SettingsError: if its tail is another one.
    """

    def __init__(self, module: DetectionModule) -> None:
        tail = compressible_tail(module)
        self._layers = linear_layers(tail)

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


def compressible_tail(module: DetectionModule) -> FullyConnectedTail:
    """Return the tail of a detector, if it consists of two whole linear layers.

    Raises:
        SettingsError: naming what to do instead.
    """
    backbone = module.settings.backbone
    regions = getattr(module.detector, "regions", None)
    if regions is None:
        raise SettingsError(f"system={module.system!r} has no layers behind a RoI pooling.")
    tail: Tail = regions.tail
    if not isinstance(tail, FullyConnectedTail):
        raise SettingsError(
            f"The tail of {backbone.name!r}, a {type(tail).__name__}, has no fully connected "
            "layers to compress. A ResNet has them if it is trained with backbone.tail=linear."
        )
    if tail.ranks is not None:
        raise SettingsError(
            f"The detector is compressed already, to the ranks {tail.ranks}: give the one that it "
            "was made from."
        )
    return tail


def linear_layers(tail: FullyConnectedTail) -> tuple[nn.Linear, nn.Linear]:
    """Return fc6 and fc7 of a tail whose layers are whole."""
    return cast(nn.Linear, tail.fc6), cast(nn.Linear, tail.fc7)


def tail_weight_count(tail: FullyConnectedTail, ranks: Ranks = (0, 0)) -> int:
    """Return the number of weights of fc6 and fc7 at these ranks, without biases."""
    return sum(
        weight_count(layer.in_features, layer.out_features, rank)
        for layer, rank in zip(linear_layers(tail), ranks, strict=True)
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
        SettingsError: the tail cannot be compressed, or not to these ranks.
    """
    factors = factors or TailSVD(module)
    settings = replace(module.settings, backbone=replace(module.settings.backbone, ranks=ranks))
    compressed = DetectionModule(
        settings,
        system=module.system,
        recipe=module.recipe,
        scheme=module.scheme,
        seed=module.seed,
        weights=module.weights,
        speed=module.speed,
    )
    state: dict[str, Tensor] = dict(module.state_dict())
    for name, rank in zip(("fc6", "fc7"), ranks, strict=True):
        if rank:
            key = f"{TAIL}{name}."
            values: SingularValues = getattr(factors, name)
            del state[f"{key}weight"]
            state[f"{key}first.weight"], state[f"{key}second.weight"] = values.truncated(rank)
            state[f"{key}second.bias"] = state.pop(f"{key}bias")
    compressed.load_state_dict(state)
    return compressed.to(module.device).train(module.training)
