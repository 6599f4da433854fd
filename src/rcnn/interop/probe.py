"""Compares what a torchvision detector and its counterpart here make of the same numbers.

Tensors of equal shapes do not prove equal networks: strides, pooling, activations and the order of
the layers are in the code. Two short runs do.

Letters: B images, R RoIs, C channels, S pooled size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models import detection

from rcnn.interop.errors import InteropError
from rcnn.interop.layout import anchor_order
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.roi_heads import eval_mode

SIZE = (64, 96)
"""(height, width) of the probe: two by three cells of the coarsest stride that is pooled from."""


@torch.no_grad()
def compare(model: detection.FasterRCNN, detector: FasterRCNN) -> None:
    """Check that backbone, pooled levels, anchors and box head of two detectors are the same.

    Args:
        model: of torchvision.
        detector: its counterpart, with the same weights, on the same device.

    Raises:
        InteropError: naming the part that differs.
    """
    generator = torch.Generator().manual_seed(0)
    device = detector.transform.mean.device
    pixels = torch.randn(1, 3, *SIZE, generator=generator).to(device)
    size = detector.settings.pooling.size
    pooled = torch.randn(2, detector.backbone.channels, size, size, generator=generator).to(device)
    with eval_mode(model), eval_mode(detector):
        levels = model.backbone(pixels)
        if isinstance(levels, Tensor):
            levels = {"0": levels}
        _same("backbone", list(levels.values()), detector.backbone(pixels))
        _same(
            "roi_heads.box_head",
            [model.roi_heads.box_head(pooled).flatten(1)],
            [detector.roi_heads.box_head(pooled)],
        )
    _check_pooled_levels(model, list(levels), detector.backbone.roi_levels)
    _check_anchors(model, detector)


def _same(name: str, theirs: list[Tensor], ours: list[Tensor]) -> None:
    """Refuse features that differ by more than rounding."""
    shapes, expected = [tuple(t.shape) for t in theirs], [tuple(t.shape) for t in ours]
    if shapes != expected:
        raise InteropError(
            f"{name} is not supported: a probe of {SIZE[0]} x {SIZE[1]} pixels gives the shapes "
            f"{shapes}; the network of the same tensors that is supported gives {expected}."
        )
    for there, here in zip(theirs, ours, strict=True):
        largest = here.nan_to_num(posinf=0.0, neginf=0.0).abs().max().item()
        if not torch.isclose(there, here, rtol=0, atol=1e-3 * largest, equal_nan=True).all():
            raise InteropError(
                f"{name} is not supported: it has the tensors of a known network but computes "
                f"something else (differences up to {(there - here).abs().max():.3g} in numbers up "
                f"to {largest:.3g})."
            )


def _check_pooled_levels(model: detection.FasterRCNN, names: list[str], count: int) -> None:
    wanted = model.roi_heads.box_roi_pool.featmap_names
    pooled = [name for name in names if name in wanted]
    if pooled != names[:count]:
        raise InteropError(
            f"roi_heads.box_roi_pool.featmap_names={wanted} is not supported: of the backbone's "
            f"levels {names} this pools from {pooled}. Supported is {names[:count]}."
        )


def _check_anchors(model: detection.FasterRCNN, detector: FasterRCNN) -> None:
    """Compare the anchors of every cell, which a user may have set by hand."""
    settings = detector.settings.anchors
    order = anchor_order(settings.per_cell // len(settings.ratios), len(settings.ratios))
    for level, theirs in enumerate(model.rpn.anchor_generator.cell_anchors):
        ours = detector.rpn.anchors.get_buffer(f"cell{level}").cpu()[order]
        if not torch.equal(theirs.cpu(), ours):
            raise InteropError(
                f"rpn.anchor_generator.cell_anchors[{level}] is not supported: it is not made of "
                "the generator's sizes and aspect_ratios."
            )
