"""The head of the region proposal network (Faster R-CNN, section 3.1).

Letters: B images, T anchors of a cell, A_l = h w T anchors of a level, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.settings import require


@dataclass(frozen=True)
class RPNSettings:
    """The shape of the head.

    Attributes:
        channels: of the 3x3 convolution; null: as many as the backbone's levels have.
        branches: ``shared``: one 3x3 convolution before the two 1x1 siblings (the paper);
            ``separate``: one for each (seed document 003).
        objectness: ``softmax`` over (background, object) as in the paper, or one ``sigmoid``.
    """

    channels: int | None = 512
    branches: Literal["shared", "separate"] = "shared"
    objectness: Literal["softmax", "sigmoid"] = "softmax"

    def __post_init__(self) -> None:
        require(
            self.channels is None or self.channels >= 1,
            "channels",
            self.channels,
            "it is 1 or more",
        )


class RPNOutput(NamedTuple):
    """What the head says of each level's anchors: log-odds of "object", and box deltas."""

    logits: list[Float[Tensor, "B _"]]
    deltas: list[Float[Tensor, "B _ 4"]]


class RPNHead(nn.Module):
    """A small network that slides over every level."""

    def __init__(self, settings: RPNSettings, in_channels: int, anchors_per_cell: int) -> None:
        super().__init__()
        hidden = settings.channels or in_channels
        pair = 2 if settings.objectness == "softmax" else 1
        self.softmax = settings.objectness == "softmax"
        self.conv = nn.Conv2d(in_channels, hidden, kernel_size=3, padding=1)
        self.conv_boxes = (
            nn.Conv2d(in_channels, hidden, kernel_size=3, padding=1)
            if settings.branches == "separate"
            else None
        )
        self.objectness = nn.Conv2d(hidden, pair * anchors_per_cell, kernel_size=1)
        self.deltas = nn.Conv2d(hidden, 4 * anchors_per_cell, kernel_size=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Float[Tensor, "B C _ _"]]) -> RPNOutput:
        """Return logits and deltas of every level. Order of anchors: y, x, template."""
        output = RPNOutput([], [])
        for features in levels:
            hidden = F.relu(self.conv(features))
            hidden_boxes = hidden if self.conv_boxes is None else F.relu(self.conv_boxes(features))
            output.logits.append(self._logits(self.objectness(hidden)))
            output.deltas.append(_per_anchor(self.deltas(hidden_boxes), 4))
        return output

    def _logits(self, raw: Float[Tensor, "B _ h w"]) -> Float[Tensor, "B _"]:
        if self.softmax:
            # softmax over (background, object) = sigmoid of their difference; (B, 2T, h, w), all
            # background channels first as in Caffe -> (B, T, h, w)
            background, object_ = raw.chunk(2, dim=1)
            raw = object_ - background
        return _per_anchor(raw, 1).squeeze(-1)


def _per_anchor(maps: Float[Tensor, "B _ h w"], width: int) -> Float[Tensor, "B _ {width}"]:
    """(B, T width, h, w) -> (B, h, w, T width) -> (B, h w T, width)."""
    return torch.permute(maps, (0, 2, 3, 1)).reshape(len(maps), -1, width)
