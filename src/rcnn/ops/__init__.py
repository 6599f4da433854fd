"""Pure functions on tensors: the arithmetic of the detectors."""

from rcnn.ops import anchors, boxes, deltas, images, losses, matching, nms, roi_pooling, sampling

__all__ = [
    "anchors",
    "boxes",
    "deltas",
    "images",
    "losses",
    "matching",
    "nms",
    "roi_pooling",
    "sampling",
]
