"""The region proposal network (Faster R-CNN, section 3.1): where there may be objects.

Letters: B images, L levels of features, T anchors of a cell, A_l = h w T anchors of a level, A of
all levels, S sampled anchors, P proposals, C channels.

=========  =====================================  ==========================================
stage      in                                     out
=========  =====================================  ==========================================
head       levels ``B C h w``                     logits ``B A_l``, deltas ``B A_l 4``
anchors    sizes of the levels                    ``A 4``
losses     output, targets ``B G 4``              two terms, AnchorSamples ``B S``
propose    output, sizes of the images ``B 2``    Proposals ``B P 4``
=========  =====================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.profiler import record_function

from rcnn.model.anchors import AnchorGrid, AnchorSettings
from rcnn.model.losses import LossSettings, rpn_losses
from rcnn.model.proposals import ProposalSettings, propose
from rcnn.model.targets import AnchorSampling, sample_anchors
from rcnn.settings import settings
from rcnn.structures import (
    AnchorSamples,
    ImageBatch,
    Losses,
    Proposals,
    SampleCounts,
    Targets,
)


@settings
class RPNSettings:
    """Shape of the RPN's head.

    Attributes:
        channels: channels of the 3x3 convolution; null: as many as the features have.
        branches: ``shared``: one 3x3 convolution before the two 1x1 siblings (the paper);
            ``separate``: one for each (seed document 003).
        objectness: ``softmax`` over (background, object) as in the paper, or one ``sigmoid``.
    """

    channels: PositiveInt | None = 512
    branches: Literal["shared", "separate"] = "shared"
    objectness: Literal["softmax", "sigmoid"] = "softmax"


class RPNOutput(NamedTuple):
    """The anchors of all levels, and for each level the log-odds of "object" and box deltas."""

    anchors: Float[Tensor, "A 4"]
    logits: list[Float[Tensor, "B _"]]
    deltas: list[Float[Tensor, "B _ 4"]]


class RPN(nn.Module):
    """Head, anchors, targets, losses and proposals.

    Args:
        in_channels: channels of every level of the features.
        strides: pixels per cell of each level.
        head: shape of the head.
        anchors: reference boxes of every cell.
        sampling: choice of the anchors to train on.
        losses: kinds and weights of the losses.
        proposals: number and choice of the proposals.
    """

    def __init__(
        self,
        in_channels: int,
        strides: Sequence[int],
        *,
        head: RPNSettings,
        anchors: AnchorSettings,
        sampling: AnchorSampling,
        losses: LossSettings,
        proposals: ProposalSettings,
    ) -> None:
        super().__init__()
        self.anchors = AnchorGrid(anchors, strides)
        self.head = RPNHead(head, in_channels, anchors.per_cell)
        self.sampling = sampling
        self.loss_settings = losses
        self.proposal_settings = proposals

    def forward(self, features: Sequence[Float[Tensor, "B C _ _"]], batch: ImageBatch) -> RPNOutput:
        """Lay the anchors over the images, and predict objectness and deltas for each."""
        grids = [(level.shape[-2], level.shape[-1]) for level in features]
        anchors = self.anchors(grids, (batch.pixels.shape[-2], batch.pixels.shape[-1]))
        with record_function("rpn head"):
            return RPNOutput(anchors, *self.head(features))

    def losses(
        self,
        output: RPNOutput,
        batch: ImageBatch,
        targets: Targets,
        generator: torch.Generator | None = None,
    ) -> tuple[Losses, AnchorSamples]:
        """Sample anchors and return their objectness and box loss, and the sample."""
        with record_function("anchor targets"):
            samples = sample_anchors(output.anchors, targets, batch, self.sampling, generator)
        with record_function("losses"):
            objectness, boxes = rpn_losses(
                torch.cat(output.logits, dim=1),
                torch.cat(output.deltas, dim=1),
                samples,
                locations=len(output.anchors) // self.anchors.settings.per_cell,
                settings=self.loss_settings,
            )
        counts = SampleCounts(
            anchors_positive=(samples.labels == 1).sum(),
            anchors_negative=(samples.labels == 0).sum(),
        )
        return Losses(rpn_objectness=objectness, rpn_boxes=boxes, counts=counts), samples

    @record_function("proposals")
    def propose(self, output: RPNOutput, batch: ImageBatch, *, train: bool) -> Proposals:
        """Return the best boxes, clipped, filtered and suppressed, in pixels of the batch."""
        anchors, logits, deltas = output
        return propose(anchors, logits, deltas, batch, self.proposal_settings, train=train)


class RPNHead(nn.Module):
    """A 3x3 convolution and two 1x1 siblings that slide over every level."""

    def __init__(self, settings: RPNSettings, in_channels: int, anchors_per_cell: int) -> None:
        super().__init__()
        hidden = settings.channels or in_channels
        logits_per_anchor = 2 if settings.objectness == "softmax" else 1
        self.softmax = settings.objectness == "softmax"
        self.conv = nn.Conv2d(in_channels, hidden, kernel_size=3, padding=1)
        self.conv_boxes = (
            nn.Conv2d(in_channels, hidden, kernel_size=3, padding=1)
            if settings.branches == "separate"
            else None
        )
        self.cls_logits = nn.Conv2d(hidden, logits_per_anchor * anchors_per_cell, kernel_size=1)
        self.bbox_pred = nn.Conv2d(hidden, 4 * anchors_per_cell, kernel_size=1)
        self.register_load_state_dict_pre_hook(_rename_layers)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(
        self, features: Sequence[Float[Tensor, "B C _ _"]]
    ) -> tuple[list[Float[Tensor, "B _"]], list[Float[Tensor, "B _ 4"]]]:
        """Return logits and deltas of every level. Order of anchors: y, x, template."""
        logits, deltas = [], []
        for level in features:
            hidden = F.relu(self.conv(level))
            hidden_boxes = hidden if self.conv_boxes is None else F.relu(self.conv_boxes(level))
            log_odds = self.cls_logits(hidden)
            if self.softmax:
                # softmax over (background, object) = sigmoid of their difference; (B, 2T, h, w),
                # all background channels first as in Caffe -> (B, T, h, w)
                background, object_ = log_odds.chunk(2, dim=1)
                log_odds = object_ - background
            logits.append(_per_anchor(log_odds, 1).squeeze(-1))
            deltas.append(_per_anchor(self.bbox_pred(hidden_boxes), 4))
        return logits, deltas


def _rename_layers(
    _head: nn.Module, state: dict[str, Tensor], prefix: str, *_unused: object
) -> None:
    """Rename the layers of a checkpoint that is older than torchvision's names for them."""
    for old, new in (("objectness", "cls_logits"), ("deltas", "bbox_pred")):
        for kind in ("weight", "bias"):
            if f"{prefix}{old}.{kind}" in state:
                state[f"{prefix}{new}.{kind}"] = state.pop(f"{prefix}{old}.{kind}")


def _per_anchor(maps: Float[Tensor, "B _ h w"], width: int) -> Float[Tensor, "B _ {width}"]:
    """(B, T width, h, w) -> (B, h, w, T width) -> (B, h w T, width)."""
    return torch.permute(maps, (0, 2, 3, 1)).reshape(len(maps), -1, width)
