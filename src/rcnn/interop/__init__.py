"""Detectors of torchvision: their settings and weights, here and back again."""

from rcnn.interop.settings import InteropError
from rcnn.interop.torchvision import (
    from_torchvision,
    load_torchvision,
    to_torchvision_state_dict,
)

__all__ = ["InteropError", "from_torchvision", "load_torchvision", "to_torchvision_state_dict"]
