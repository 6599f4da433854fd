"""The precision of coordinates and losses."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def in_full(tensor: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return ``tensor`` in float32, or float64 if it is.

    Under mixed precision the network's outputs have 8 or 11 bits: too few for a coordinate of a
    thousand pixels, or for a sum of many terms.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
