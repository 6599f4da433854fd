"""Detecting in pictures as people hand them over."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from rcnn.data.images import Picture, as_images
from rcnn.model.build import Detector
from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.roi_heads import eval_mode
from rcnn.structures import Detections


def predict(
    detector: Detector,
    pictures: Picture | Sequence[Picture],
    batch_size: int,
    proposals: Sequence[Float[Tensor, "_ 4"]] | None,
) -> Detections | list[Detections]:
    """Return what is in one picture, or in each of a list; see ``DetectionModule.predict``.

    Raises:
        ValueError: if the detector needs proposals and there is not one set for each picture, or
            it makes its own.
    """
    single = isinstance(pictures, Picture)
    images = as_images([pictures] if isinstance(pictures, Picture) else pictures)
    _check(detector, len(images), proposals)
    found: list[Detections] = []
    with eval_mode(detector):
        for first in range(0, len(images), batch_size):
            some = slice(first, first + batch_size)
            found += _detect(detector, images[some], None if proposals is None else proposals[some])
    on_cpu = [detections.to("cpu") for detections in found]
    return on_cpu[0] if single else on_cpu


def _detect(
    detector: Detector,
    images: Sequence[Tensor],
    proposals: Sequence[Float[Tensor, "_ 4"]] | None,
) -> list[Detections]:
    if isinstance(detector, FastRCNN):
        return detector.detect(images, proposals or [])
    return detector.detect(images)


def _check(
    detector: Detector, pictures: int, proposals: Sequence[Float[Tensor, "_ 4"]] | None
) -> None:
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
