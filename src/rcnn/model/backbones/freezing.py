"""Which parts of a pretrained network stay as they were loaded.

A frozen batch norm is torchvision's ``FrozenBatchNorm2d``: four buffers and no parameter, the same
in training and inference. Detection minibatches are too small for batch statistics, so networks
that start from loaded weights keep the loaded ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.model.backbones.settings import BackboneSettings
from rcnn.settings import require


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


def settle_layers(
    network: nn.Module, stages: Sequence[Sequence[str]], settings: BackboneSettings
) -> None:
    """Give a classification network the norms of ``settings`` and freeze its first stages.

    A frozen stage is frozen altogether: its batch norms neither learn nor count statistics, even
    where the norms of later stages do.

    Args:
        network: changed in place; its norms are ``BatchNorm2d``.
        stages: the names of the children of ``network`` that make up each stage, in order.
        settings: ``norm`` ("auto" counts as "batch"), ``norm_eps`` and ``frozen_stages`` are read.

    Raises:
        SettingsError: more stages shall be frozen than the network has.
    """
    require(
        settings.frozen_stages <= len(stages),
        "backbone.frozen_stages",
        settings.frozen_stages,
        f"{settings.name} has {len(stages)} stages",
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = settings.norm_eps
    if settings.norm == "frozen":
        freeze_norms(network)
    for name in chain.from_iterable(stages[: settings.frozen_stages]):
        stage = freeze_norms(network.get_submodule(name))
        setattr(network, name, stage.requires_grad_(False))
