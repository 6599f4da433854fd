"""What every backbone consists of: a body that sees images and a tail that sees RoIs.

Shapes: B images, H W their padded size, C channels of every level, h w the size of a level
(H/stride, W/stride), R RoIs, D features of an RoI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn


class Body(nn.Module):
    """Turns normalised images into the feature maps that the RPN and the RoI pooling share.

    Args:
        strides: pixels of the image per cell, for each level.
        channels: C, the same on all levels.
        roi_levels: the first so many levels are pooled from; the others serve the RPN alone.
    """

    def __init__(self, *, strides: tuple[int, ...], channels: int, roi_levels: int) -> None:
        super().__init__()
        if not 1 <= roi_levels <= len(strides):
            raise ValueError(
                f"roi_levels={roi_levels} is not possible: a body with strides {strides} pools "
                f"from 1 to {len(strides)} levels."
            )
        self.strides = strides
        self.channels = channels
        self.roi_levels = roi_levels

        self.frozen = False

    def freeze(self) -> None:
        """Stop learning for good: no gradients, and norms that neither count nor learn.

        What earlier layers of a network share between two tasks stays as it is while one of them
        is trained (Faster R-CNN, section 3.2; SPP-net).
        """
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Body:
        """Switch to training, unless frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the levels, finest first."""
        raise NotImplementedError


class Tail(nn.Module):
    """Turns the pooled features of each RoI into the vector that the box head classifies.

    Args:
        channels: D.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, pooled: Float[Tensor, "R C _ _"]) -> Float[Tensor, "R D"]:
        """Return one vector per RoI."""
        raise NotImplementedError


def _own_names() -> Mapping[str, str]:
    return {"body.": "body.", "tail.": "tail."}


@dataclass(frozen=True)
class Backbone:
    """A network, cut where the RoI pooling goes.

    Attributes:
        body: runs once on the images.
        tail: runs on every RoI.
        weight_names: how the keys of a file of pretrained weights begin, and how the same tensors
            begin here. What no prefix covers starts at random. By default a file has the names
            of this backbone, ``body.*`` and ``tail.*``.
    """

    body: Body
    tail: Tail
    weight_names: Mapping[str, str] = field(default_factory=_own_names)
