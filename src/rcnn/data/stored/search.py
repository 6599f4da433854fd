"""Proposals of a whole data set by selective search.

Letters: P proposals of an image.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.data.selective_search import SelectiveSearchSettings, opencv, selective_search
from rcnn.data.stored.decode import decode, leave_out
from rcnn.data.stored.writer import ProposalWriter
from rcnn.settings import require


def propose_by_search(
    dataset: DetectionDataset,
    path: Path,
    settings: SelectiveSearchSettings | None = None,
    *,
    workers: int = 1,
) -> Path:
    """Make a stored-proposal file by selective search, or go on with one that was interrupted.

    The boxes of an image hang on its pixels, its id and the settings, so the file has the same
    bytes for any number of workers and of interruptions.

    Args:
        dataset: the images. Under ``on_error=skip`` a broken one gets no proposals.
        path: of the file to be made.
        settings: of the search; by default those of Fast R-CNN.
        workers: processes that search, each an image at a time; 0 does it in this one.

    Returns:
        ``path``.

    Raises:
        ImportError: if OpenCV or its contributed modules are not installed.
        DataError: if the file exists, its folder was begun for something else, or an image cannot
            be decoded.
    """
    settings = settings or SelectiveSearchSettings()
    require(workers >= 0, "workers", workers, "it is 0 or more")
    source = _source(settings)
    with ProposalWriter(path, dataset, source) as writer, _one_thread():
        missing = set(writer.missing())
        places = [i for i, image_id in enumerate(dataset.image_ids) if image_id in missing]
        loader = DataLoader(
            _Searched(dataset, settings),
            sampler=places,
            batch_size=None,
            num_workers=workers,
            worker_init_fn=_begin,
        )
        results = iter(loader)  # starts the workers; the bar's thread must not be forked
        with Progress() as progress:
            task = progress.add_task("selective search", total=len(places))
            for image_id, found in results:
                if isinstance(found, DataError):
                    leave_out(found, dataset)
                    found = torch.zeros(0, 4)
                writer.add(image_id, found)
                progress.advance(task)
        return writer.finish()


class _Searched(Dataset[tuple[str, Tensor | DataError]]):
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


def _source(settings: SelectiveSearchSettings) -> str:
    """Say what makes the boxes, with all that changes them."""
    limit = "all boxes" if settings.limit is None else f"at most {settings.limit} boxes"
    return (
        f"selective search {settings.mode} of OpenCV {opencv().__version__}, {settings.width} "
        f"pixels wide, sides from {settings.min_size} pixels, {limit}"
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread.

    Images are searched side by side, and a process with threads of OpenCV must not be forked.
    """
    cv2 = opencv()
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _begin(worker: int) -> None:  # noqa: ARG001
    """Keep a worker that was not forked to one thread too."""
    opencv().setNumThreads(1)
