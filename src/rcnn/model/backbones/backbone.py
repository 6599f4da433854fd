"""What every backbone consists of: a body that sees images and a tail that sees RoIs.

Shapes: B images, H W their padded size, C channels of every level, h w the size of a level
(H/stride, W/stride), R RoIs, S pooled size, D features of an RoI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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

    def forward(self, pooled: Float[Tensor, "R C S S"]) -> Float[Tensor, "R D"]:
        """Return one vector per RoI."""
        raise NotImplementedError


class FullyConnectedTail(Tail):
    """Two linear layers, each followed by ReLU and dropout.

    With 4096 units this is fc6 and fc7 of VGG-16 (Fast R-CNN, section 2.2), with 1024 units and
    no dropout the box head of feature pyramid networks (FPN, section 4.2).

    Args:
        in_channels: C.
        cells: of the pooled features, 49 for 7 x 7.
        hidden: D.
        dropout: probability that an activation is dropped in training.
    """

    def __init__(self, *, in_channels: int, cells: int, hidden: int, dropout: float) -> None:
        super().__init__(channels=hidden)
        self.fc6 = nn.Linear(in_channels * cells, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Float[Tensor, "R C S S"]) -> Float[Tensor, "R D"]:
        """Return one vector per RoI."""
        hidden = self.dropout(F.relu(self.fc6(pooled.flatten(1))))  # R C S S -> R D
        features: Tensor = self.dropout(F.relu(self.fc7(hidden)))
        return features


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
