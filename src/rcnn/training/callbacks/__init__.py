"""What happens around the training loop."""

from rcnn.training.callbacks.pictures import Pictures
from rcnn.training.callbacks.progress import Progress

__all__ = ["Pictures", "Progress"]
