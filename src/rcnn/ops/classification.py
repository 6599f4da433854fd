"""What the class logits of a RoI mean: their loss and their scores.

Letters: K classes, ``*n`` any number of RoIs.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Classifier = Literal["softmax", "one_vs_rest"]
"""One choice among background and K classes, or K independent questions."""


def classification_terms(
    logits: Float[Tensor, "*n K1"], labels: Int[Tensor, "*n"], classifier: Classifier
) -> Float[Tensor, "*n"]:
    """Return the loss of each RoI, 0 where it is not used.

    ``softmax``: the cross-entropy over background and K classes. ``one_vs_rest``: the binary
    cross-entropies of the K classes, summed; background is "none of them", and the logit of
    background is not used.

    Args:
        logits: background first.
        labels: 0..K, or -1 for unused places.
        classifier: what the logits mean.
    """
    if classifier == "softmax":
        terms = F.cross_entropy(
            logits.flatten(0, -2), labels.flatten(), ignore_index=-1, reduction="none"
        )
        return terms.view(labels.shape)
    classes = torch.arange(1, logits.shape[-1], device=labels.device)
    wanted = (labels[..., None] == classes).to(logits.dtype)  # (*n, K)
    each = F.binary_cross_entropy_with_logits(logits[..., 1:], wanted, reduction="none")
    return torch.where(labels >= 0, each.sum(dim=-1), 0.0)


def class_scores(logits: Float[Tensor, "*n K1"], classifier: Classifier) -> Float[Tensor, "*n K"]:
    """Return the probability of each class but background."""
    if classifier == "softmax":
        return logits.softmax(dim=-1)[..., 1:]
    return logits[..., 1:].sigmoid()
