"""Where torchvision keeps the tensors of a Faster R-CNN, and in which order it has its anchors.

Letters: T anchors of a cell, made of S sizes and R ratios; C channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

COMPONENTS: tuple[tuple[str, str], ...] = (
    ("backbone.", "backbone."),
    ("rpn.head.conv.", "rpn.head.conv.0.0."),
    ("rpn.head.objectness.", "rpn.head.cls_logits."),
    ("rpn.head.deltas.", "rpn.head.bbox_pred."),
    ("roi_heads.box_head.", "roi_heads.box_head."),
    ("roi_heads.box_predictor.cls_score.", "roi_heads.box_predictor.cls_score."),
    ("roi_heads.box_predictor.bbox_pred.", "roi_heads.box_predictor.bbox_pred."),
)
"""How the keys of each part begin, here and there."""

COUNT = "num_batches_tracked"
"""A batch norm's count of batches, which frozen ones do not have."""

ANCHOR_CHANNELS = ("rpn.head.objectness.", "rpn.head.deltas.")
"""The layers whose output channels are anchors of a cell."""


def anchor_order(sizes: int, ratios: int) -> Int[Tensor, " T"]:
    """Return, for each place in a cell of torchvision's, the place of that anchor here.

    Torchvision lists the anchors of a cell by ratio, then size; here it is size, then ratio.
    """
    return torch.arange(sizes * ratios).view(sizes, ratios).T.flatten()


def reorder_channels(
    tensor: Float[Tensor, "C ..."], order: Int[Tensor, " T"]
) -> Float[Tensor, "C ..."]:
    """Return the weights or biases of a layer whose C = T x n output channels change places.

    Args:
        tensor: n neighbouring channels belong to one anchor.
        order: for each place afterwards, the place before.
    """
    # (T n, ...) -> (T, n, ...) -> (T n, ...)
    reordered: Tensor = tensor.unflatten(0, (len(order), -1))[order].flatten(0, 1)
    return reordered


def signature(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Return the kind ("weight", "running_mean" ...) and the shape of every tensor, in order."""
    return [(key.rpartition(".")[2], tuple(tensor.shape)) for key, tensor in _state(module)]


def pair_keys(ours: nn.Module, theirs: nn.Module) -> dict[str, str]:
    """Return their key for each of our keys, for two modules of the same signature."""
    return {key: other for (key, _), (other, _) in zip(_state(ours), _state(theirs), strict=True)}


def _state(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return a state dict without the batch norms' counts."""
    state = module.state_dict().items()
    return [(key, tensor) for key, tensor in state if not key.endswith(COUNT)]
