"""Detecting in pictures as people hand them over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from rcnn.data.images import Picture, as_images
from rcnn.model.build import Detector
from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.proposal_network import ProposalNetwork
from rcnn.model.roi_heads import eval_mode
from rcnn.settings import require
from rcnn.structures import Detections


def predict(
    detector: Detector,
    pictures: Picture | Sequence[Picture],
    *,
    score: float | None = None,
    nms_iou: float | None = None,
    batch_size: int = 2,
    proposals: Sequence[Float[Tensor, "_ 4"]] | None = None,
) -> Detections | list[Detections]:
    """Return the detections of one picture, or of each of a list.

    Args:
        detector: any system; its mode and its thresholds are afterwards as they were.
        pictures: paths, PIL images, ``uint8`` arrays ``(h, w, 3)``, tensors ``(3, h, w)``, or a
            list of them.
        score: lowest probability of a detection in this call, 0..1; by default the detector's own.
        nms_iou: IoU above which a better box suppresses another one of its class in this call,
            0..1; by default the detector's own.
        batch_size: pictures that go through the network at once.
        proposals: boxes of each picture in its pixels, best first, for a system that makes none.

    Returns:
        Detections on the CPU, in pixels of each picture; one for one, a list for a list.

    Raises:
        SettingsError: a threshold or the batch size is out of range.
        ValueError: the detector needs proposals and there is not one set for each picture, or it
            makes its own.
    """
    require(batch_size >= 1, "batch_size", batch_size, "it should be 1 or more")
    single = isinstance(pictures, Picture)
    images = as_images([pictures] if isinstance(pictures, Picture) else pictures)
    _check_proposals(detector, len(images), proposals)
    found: list[Detections] = []
    with eval_mode(detector), _thresholds(detector, score, nms_iou):
        for first in range(0, len(images), batch_size):
            some = slice(first, first + batch_size)
            if isinstance(detector, FastRCNN):
                found += detector.detect(images[some], (proposals or [])[some])
            else:
                found += detector.detect(images[some])
    on_cpu = [detections.to("cpu") for detections in found]
    return on_cpu[0] if single else on_cpu


@contextmanager
def _thresholds(detector: Detector, score: float | None, nms_iou: float | None) -> Iterator[None]:
    """Give a detector other thresholds, and its own ones back afterwards.

    The detections of a proposal network are its proposals, which have thresholds of the same names.
    """
    given = {"score": score, "nms_iou": nms_iou}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    owner: Any
    changed: Any
    if isinstance(detector, ProposalNetwork):
        owner, name = detector.rpn, "proposal_settings"
        changed = replace(detector.rpn.proposal_settings, **changes)
    else:
        owner, name, settings = detector.roi_heads, "settings", detector.roi_heads.settings
        changed = replace(settings, detections=replace(settings.detections, **changes))
    own = getattr(owner, name)
    setattr(owner, name, changed)
    try:
        yield
    finally:
        setattr(owner, name, own)


def _check_proposals(
    detector: Detector, pictures: int, proposals: Sequence[Float[Tensor, "_ 4"]] | None
) -> None:
    """Refuse proposals that are missing, or that nothing would read."""
    name = type(detector).__name__
    if not isinstance(detector, FastRCNN):
        if proposals is not None:
            raise ValueError(f"{name} makes its own proposals: give none.")
    elif proposals is None or len(proposals) != pictures:
        given = "none are" if proposals is None else f"those of {len(proposals)} are"
        raise ValueError(
            f"{name} makes no proposals itself: give predict(images, proposals=[...]), the boxes "
            f"of each of the {pictures} pictures; {given} given. `rcnn propose` makes some."
        )
