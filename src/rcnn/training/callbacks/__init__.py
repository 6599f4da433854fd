"""What happens around the training loop."""

from rcnn.training.callbacks.ema import EMA
from rcnn.training.callbacks.finite import FiniteLoss, NonFiniteLossError
from rcnn.training.callbacks.pictures import Pictures
from rcnn.training.callbacks.progress import Progress
from rcnn.training.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "FiniteLoss",
    "NonFiniteLossError",
    "Pictures",
    "Progress",
    "Throughput",
]
