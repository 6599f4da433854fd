"""Selective search (Uijlings et al., Selective Search for Object Recognition, IJCV 2013).

Letters: P proposals of an image, (h, w) of its pixels.

The segmentation and the grouping are OpenCV's (``cv2.ximgproc``). The order is not: OpenCV draws
it from the generator of the C library, anew with every call, and puts the smallest regions first,
contrary to the paper, so that a limit would cut off what is large. Here boxes are ordered as in
section 3.3 of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rcnn.ops.boxes import area, at_least, clip, scale
from rcnn.ops.images import resize
from rcnn.settings import require

Mode = Literal["fast", "quality"]

TALLEST = 3  # times the width, above which the search's time and memory grow with the square


@dataclass(frozen=True)
class SelectiveSearchSettings:
    """How an image is searched.

    Attributes:
        mode: ``fast`` groups the regions of 2 colour spaces in 6 ways each, ``quality`` those of 5
            in 20. The names are the paper's, the scales of the segmentation OpenCV's.
        width: to which every image is resized before the search, in pixels. The search is not
            invariant to scale: the size of its regions is set in pixels, for images as wide as
            those of PASCAL VOC. R-CNN's script has 500, for this reason. An image more than three
            times as high as wide becomes three times as high as this instead.
        min_size: the shortest side of a box that stays, in pixels of the resized image; R-CNN's
            script has 20.
        limit: how many boxes of an image stay (Fast R-CNN, section 2: about 2000); all, if None.
    """

    mode: Mode = "fast"
    width: int = 500
    min_size: int = 20
    limit: int | None = 2000

    def __post_init__(self) -> None:
        require(self.mode in ("fast", "quality"), "mode", self.mode, "choose 'fast' or 'quality'")
        require(self.width >= 1, "width", self.width, "it is 1 or more pixels")
        require(self.min_size >= 1, "min_size", self.min_size, "it is 1 or more pixels")
        limit = self.limit
        require(limit is None or limit >= 1, "limit", limit, "it is 1 or more boxes, or null")


def selective_search(
    image: UInt8[Tensor, "3 h w"], settings: SelectiveSearchSettings, generator: torch.Generator
) -> Float[Tensor, "P 4"]:
    """Return boxes that may hold an object, in pixels of the image, best first.

    Args:
        image: RGB.
        settings: how it is searched.
        generator: of the random part of the order; equal ones give equal boxes.

    Raises:
        ImportError: if OpenCV or its contributed modules are not installed.
    """
    height, width = image.shape[-2:]
    factor = min(settings.width / width, TALLEST * settings.width / height)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    found = _search(resize(image, size), settings.mode)
    found = found[at_least(found, float(settings.min_size))]
    best = found[_order(found, generator)[: settings.limit]]
    factors = torch.tensor([[height / size[0], width / size[1]]])
    return clip(scale(best[None], factors), torch.tensor([[height, width]]))[0]


def opencv() -> ModuleType:
    """Import OpenCV, an extra of this package.

    Raises:
        ImportError: if it or its contributed modules are not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "Selective search is OpenCV's, which is not installed: pip install 'rcnn[proposals]'"
        ) from error
    if not hasattr(cv2, "ximgproc"):
        raise ImportError(
            f"The installed OpenCV {cv2.__version__} lacks its contributed modules, which have "
            "selective search. Another package of OpenCV takes their place: uninstall "
            "opencv-python or opencv-python-headless, then pip install 'rcnn[proposals]'"
        )
    return cv2


def _search(image: UInt8[Tensor, "3 h w"], mode: Mode) -> Float[Tensor, "P 4"]:
    """Return the boxes of all regions, each once, in an order that hangs on nothing else."""
    search = opencv().ximgproc.segmentation.createSelectiveSearchSegmentation()
    # (3, h, w) RGB -> (h, w, 3) BGR
    search.setBaseImage(np.ascontiguousarray(image.permute(1, 2, 0).numpy()[:, :, ::-1]))
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    rectangles = np.unique(search.process(), axis=0)  # x, y, width, height
    boxes = torch.from_numpy(rectangles).float()
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def _order(boxes: Float[Tensor, "P 4"], generator: torch.Generator) -> Tensor:
    """Return the places of the boxes, best first.

    The paper multiplies a region's position in its hierarchy, the whole image being first, by a
    random number, so that large regions tend to come early without crowding out the others.
    OpenCV does not tell the hierarchy; the position by area, over all boxes, stands in for it.
    """
    by_area = area(boxes).argsort(descending=True, stable=True)
    positions = torch.arange(1, len(boxes) + 1)
    return by_area[(positions * torch.rand(len(boxes), generator=generator)).argsort(stable=True)]
