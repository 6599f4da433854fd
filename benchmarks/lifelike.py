"""Random weights under which a detector behaves as if it had learned something.

Fresh weights score all anchors alike and leave them where they are, so that suppression meets a
regular grid and nothing passes the threshold of a detection. Time would be measured on a case that
no user has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

OBJECTNESS, ANCHOR_DELTAS = 2.0, 0.3
"""Deviations of the RPN's outputs from place to place."""

CLASSES, BOX_DELTAS = 2.0, 1.0
"""Deviations of the box head's outputs from RoI to RoI."""

BACKGROUND = 7.0
"""By which background's logit is above the others: some hundred scores an image pass 0.05."""


@torch.no_grad()
def enliven(
    model: FasterRCNN, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
) -> None:
    """Make batch norms know the images, and predictions differ from place to place."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    if norms:
        momenta = [layer.momentum for layer in norms]
        for layer in norms:
            layer.momentum = 1.0  # the statistics become those of the images
        model.train()(images, targets)
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    model.eval()
    head = model.rpn.head
    with _outputs([head.cls_logits, head.bbox_pred]) as outputs:
        levels = model.backbone(model.transform(list(images))[0].tensors)
        head([levels] if isinstance(levels, Tensor) else list(levels.values()))
    _spread(head.cls_logits, outputs[0], OBJECTNESS)
    _spread(head.bbox_pred, outputs[1], ANCHOR_DELTAS)
    predictor = model.roi_heads.box_predictor
    with _outputs([predictor.cls_score, predictor.bbox_pred]) as outputs:
        model(images)
    _spread(predictor.cls_score, outputs[0], CLASSES)
    _spread(predictor.bbox_pred, outputs[1], BOX_DELTAS)
    predictor.cls_score.bias[0] += BACKGROUND


@contextmanager
def _outputs(layers: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Collect what layers put out, each channel in a row."""
    found: list[list[Tensor]] = [[] for _ in layers]

    def collect(place: int, output: Tensor) -> None:
        found[place].append(output.transpose(0, 1).flatten(1))

    handles = [
        layer.register_forward_hook(lambda _, __, output, place=place: collect(place, output))
        for place, layer in enumerate(layers)
    ]
    yield found
    for handle in handles:
        handle.remove()


def _spread(layer: nn.Conv2d | nn.Linear, outputs: Sequence[Tensor], deviation: float) -> None:
    """Scale a layer so that each of its channels has mean 0 and the given deviation."""
    rows = torch.cat(list(outputs), dim=1)
    factor = deviation / rows.std(dim=1).clamp(min=1e-12)
    layer.weight.mul_(factor.view(-1, *(1,) * (layer.weight.ndim - 1)))
    assert layer.bias is not None
    layer.bias.sub_(rows.mean(dim=1)).mul_(factor)
