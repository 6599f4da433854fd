"""Two linear layers as a tail, whole or each as the product of two thinner ones.

Shapes: C channels, R RoIs, h w pooled cells (7 x 7 in the papers), D features of a RoI.
"""

from __future__ import annotations

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rcnn.model.backbones.backbone import Tail
from rcnn.settings import require

Ranks = tuple[int, int]
"""Of fc6 and fc7; 0: the layer is whole."""


class FullyConnectedTail(Tail):
    """Two linear layers, each followed by ReLU and dropout.

    With 4096 units this is fc6 and fc7 of VGG-16 (Fast R-CNN, section 2.2), with 1024 units and
    no dropout the box head of feature pyramid networks (FPN, section 4.2).

    A layer that has a rank is two linear layers, ``first`` without bias and ``second`` with it,
    and nothing between them (truncated SVD; Fast R-CNN, section 3.1).

    Args:
        in_channels: C.
        cells: of the pooled features, 49 for 7 x 7.
        hidden: D.
        dropout: probability that an activation is dropped in training.
        ranks: of fc6 and fc7, 0 for a whole layer; null: both are whole.

    Raises:
        SettingsError: a rank is larger than a matrix of the layer's shape can have.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        cells: int,
        hidden: int,
        dropout: float,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(channels=hidden)
        self.ranks = ranks
        first, second = ranks or (0, 0)
        self.fc6 = self._layer("fc6", in_channels * cells, hidden, first)
        self.fc7 = self._layer("fc7", hidden, hidden, second)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Float[Tensor, "R C h w"]) -> Float[Tensor, "R D"]:
        """Return one vector per RoI."""
        hidden = self.dropout(F.relu(self.fc6(pooled.flatten(1))))  # R C h w -> R D
        features: Tensor = self.dropout(F.relu(self.fc7(hidden)))
        return features

    def _layer(self, name: str, inputs: int, outputs: int, rank: int) -> nn.Module:
        if rank == 0:
            return nn.Linear(inputs, outputs)
        largest = min(inputs, outputs)
        allowed = (
            f"{name} ({inputs} to {outputs}) has rank {largest} at most, and 0 leaves it whole"
        )
        require(0 < rank <= largest, "backbone.ranks", self.ranks, allowed)
        first, second = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)
        return nn.Sequential(OrderedDict(first=first, second=second))
