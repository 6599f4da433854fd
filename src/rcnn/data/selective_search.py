"""Selective search (Uijlings et al., Selective Search for Object Recognition, IJCV 2013).

Letters: P proposals of an image, (h, w) of its pixels.

The segmentation and the grouping are OpenCV's (``cv2.ximgproc``). The order is not: OpenCV draws
it from the generator of the C library, differently with every call, and puts the smallest regions
first, contrary to the paper, so that a limit would cut off what is large. Here boxes are ordered as
in section 3.3 of the paper.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import PositiveInt
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.data.proposal_writer import ProposalWriter, decode
from rcnn.ops.boxes import area, clip, scale, sides_at_least
from rcnn.ops.images import resize
from rcnn.settings import settings, to_plain

Mode = Literal["fast", "quality"]


@settings
class SelectiveSearchSettings:
    """Resolution, strategies and number of boxes of a search.

    Attributes:
        mode: ``fast`` groups the regions of 2 colour spaces in 6 ways each, ``quality`` those of 5
            in 20. The names are the paper's, the scales of the segmentation OpenCV's.
        width: width to which every image is resized before the search, in pixels. The search is
            not invariant to scale: the size of its regions is set in pixels, for images as wide
            as those of PASCAL VOC. R-CNN's script has 500, for this reason. An image more than
            three times as high as wide becomes three times as high as this instead.
        min_size: shortest side of a box that is kept, in pixels of the resized image; R-CNN's
            script has 20.
        limit: number of boxes of an image that are kept at most (Fast R-CNN, section 2: about
            2000); all, if None.
    """

    mode: Mode = "fast"
    width: PositiveInt = 500
    min_size: PositiveInt = 20
    limit: PositiveInt | None = 2000


def selective_search(
    image: UInt8[Tensor, "3 h w"], settings: SelectiveSearchSettings, generator: torch.Generator
) -> Float[Tensor, "P 4"]:
    """Return boxes that may hold an object, in pixels of the image, best first.

    Args:
        image: RGB.
        settings: resolution, strategies and number of boxes.
        generator: source of randomness of the order; equal ones give equal boxes.

    Raises:
        ImportError: OpenCV or its contributed modules are not installed.
    """
    height, width = image.shape[-2:]
    # The search's time and memory grow with the square of the pixels.
    factor = min(settings.width / width, 3 * settings.width / height)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    found = _search(resize(image, size), settings.mode)
    found = found[sides_at_least(found, float(settings.min_size))]
    best = found[_order(found, generator)[: settings.limit]]
    factors = torch.tensor([[height / size[0], width / size[1]]])
    return clip(scale(best[None], factors), torch.tensor([[height, width]]))[0]


def propose_by_search(
    dataset: DetectionDataset,
    path: Path,
    settings: SelectiveSearchSettings | None = None,
    *,
    workers: int = 1,
) -> Path:
    """Make a file of proposals by selective search, or go on with one that was interrupted.

    The boxes of an image depend on its pixels, its id and the settings, so the file has the same
    bytes for any number of workers and of interruptions.

    Args:
        dataset: the images. Under ``on_error=skip`` a broken one gets no proposals.
        path: file to be made.
        settings: settings of the search; by default those of Fast R-CNN.
        workers: number of processes that search, each an image at a time; 0 does it in this one.

    Returns:
        ``path``.

    Raises:
        ImportError: OpenCV or its contributed modules are not installed.
        DataError: the file exists, its shards are of something else, or an image cannot be
            decoded.
    """
    settings = settings or SelectiveSearchSettings()
    values = ", ".join(f"{key}={value}" for key, value in to_plain(settings).items())
    origin = f"selective search of OpenCV {opencv().__version__}, {values}"
    with ProposalWriter(path, dataset, origin) as writer, _one_thread():
        missing = set(writer.missing())
        indices = [i for i, image_id in enumerate(dataset.image_ids) if image_id in missing]
        loader = DataLoader(
            _SearchedDataset(dataset, settings),
            sampler=indices,
            batch_size=None,
            num_workers=workers,
            worker_init_fn=_limit_threads,
        )
        results = iter(loader)  # starts the workers; the bar's thread must not be forked
        with Progress() as progress:
            for image_id, found in progress.track(results, len(indices), description="search"):
                if isinstance(found, DataError):
                    writer.add_failed(image_id, found)
                else:
                    writer.add(image_id, found)
        return writer.finish()


def opencv() -> ModuleType:
    """Import OpenCV, an extra of this package.

    Raises:
        ImportError: it or its contributed modules are not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "Selective search is OpenCV's, which is not installed: pip install 'rcnn[proposals]'"
        ) from error
    if not hasattr(cv2, "ximgproc"):
        raise ImportError(
            f"OpenCV {cv2.__version__} lacks its contributed modules, which have selective search: "
            "uninstall opencv-python or opencv-python-headless, then pip install 'rcnn[proposals]'"
        )
    return cv2


def _search(image: UInt8[Tensor, "3 h w"], mode: Mode) -> Float[Tensor, "P 4"]:
    """Return the boxes of all regions, each once, in an order of their coordinates."""
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
    """Return the indices of the boxes, best first."""
    # The paper multiplies a region's position in its hierarchy, the whole image being first, by a
    # random number, so that large regions tend to come early without crowding out the others.
    # OpenCV does not return the hierarchy; the rank by area, over all boxes, replaces the position.
    by_area = area(boxes).argsort(descending=True, stable=True)
    ranks = torch.arange(1, len(boxes) + 1)
    return by_area[(ranks * torch.rand(len(boxes), generator=generator)).argsort(stable=True)]


class _SearchedDataset(Dataset[tuple[str, Tensor | DataError]]):
    """The id of each image with its boxes, or with the fault of its file."""

    def __init__(self, dataset: DetectionDataset, settings: SelectiveSearchSettings) -> None:
        self.dataset = dataset
        self.settings = settings

    def __getitem__(self, index: int) -> tuple[str, Float[Tensor, "P 4"] | DataError]:
        image_id = self.dataset.image_ids[index]
        sample = decode(self.dataset, index)
        if isinstance(sample, DataError):
            return image_id, sample
        generator = torch.Generator().manual_seed(zlib.crc32(image_id.encode()))
        return image_id, selective_search(sample.image, self.settings, generator)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread: a process with several of them must not be forked."""
    cv2 = opencv()
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _limit_threads(worker: int) -> None:  # noqa: ARG001
    """Keep a worker that was not forked to one thread too."""
    opencv().setNumThreads(1)
