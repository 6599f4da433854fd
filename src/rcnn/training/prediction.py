"""Detecting in pictures as people hand them over."""

from __future__ import annotations

from collections.abc import Sequence

from rcnn.data.pictures import Picture, as_images
from rcnn.model.detector import FasterRCNN
from rcnn.structures import Detections


def predict(
    detector: FasterRCNN, pictures: Picture | Sequence[Picture], batch_size: int
) -> Detections | list[Detections]:
    """Return what is in one picture, or in each of a list; see ``DetectionModule.predict``."""
    single = isinstance(pictures, Picture)
    images = as_images([pictures] if isinstance(pictures, Picture) else pictures)
    training = detector.training
    detector.eval()
    try:
        found = [
            detections.to("cpu")
            for first in range(0, len(images), batch_size)
            for detections in detector.detect(images[first : first + batch_size])
        ]
    finally:
        detector.train(training)
    return found[0] if single else found
