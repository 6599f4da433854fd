"""Detectors from other libraries, and back to them."""

from rcnn.interop.errors import InteropError
from rcnn.interop.released import load_torchvision
from rcnn.interop.torchvision import from_torchvision
from rcnn.interop.transfer import to_torchvision_state_dict

__all__ = ["InteropError", "from_torchvision", "load_torchvision", "to_torchvision_state_dict"]
