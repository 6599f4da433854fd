"""What one reading of a whole split knows: its objects, its pictures as digests and thumbnails.

Letters: I images of a split, N objects of a split.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.ops.images import resize

THUMBNAIL = 16
"""Side of the grey thumbnails by which pictures are compared, in pixels."""

ALIKE = 6.0
"""Largest mean difference of the thumbnails of two pictures that count as nearly the same, in grey
levels after both were brought to the same mean and contrast of 64."""


@dataclass(frozen=True)
class Survey:
    """What was read of one split.

    Attributes:
        split: name of the split.
        dataset: its data set.
        boxes: boxes of all objects, in original pixels.
        labels: their classes, 1..K.
        images: index of the image of each object.
        ignored: objects that are difficult, or regions that hold many.
        digests: digest of the pixels of each image; empty where it cannot be decoded.
        thumbnails: grey pictures with mean 0 and standard deviation 64; zeros for one colour.
        faults: message of each image that cannot be decoded, by index.
    """

    split: str
    dataset: DetectionDataset
    boxes: Float[Tensor, "N 4"]
    labels: Int[Tensor, " N"]
    images: Int[Tensor, " N"]
    ignored: Bool[Tensor, " N"]
    digests: tuple[str, ...]
    thumbnails: Float[np.ndarray, "I _"]
    faults: dict[int, str]

    def name(self, image: int) -> str:
        """Return the name of an image for people: its split and its id."""
        return f"{self.split}/{self.dataset.image_ids[image]}"


def survey(split: str, dataset: DetectionDataset, threads: int = 4) -> Survey:
    """Decode every image of a split once.

    Args:
        split: name of the split.
        dataset: its images; opened with ``on_error=skip``, all faults are reported and not only
            the first.
        threads: number of threads that decode.
    """
    objects = [dataset.ground_truth(index) for index in range(len(dataset))]
    counts = torch.tensor([len(one) for one in objects])
    with ThreadPoolExecutor(threads) as pool:
        read = list(pool.map(lambda index: _read(dataset, index), range(len(dataset))))
    return Survey(
        split=split,
        dataset=dataset,
        boxes=torch.cat([one.boxes for one in objects]),
        labels=torch.cat([one.labels for one in objects]),
        images=torch.arange(len(dataset)).repeat_interleave(counts),
        ignored=torch.cat([one.difficult | one.crowd for one in objects]),
        digests=tuple(digest for digest, _, _ in read),
        thumbnails=np.stack([thumbnail for _, thumbnail, _ in read]),
        faults={index: fault for index, (_, _, fault) in enumerate(read) if fault},
    )


def _read(dataset: DetectionDataset, index: int) -> tuple[str, Float[np.ndarray, " _"], str]:
    """Return digest, thumbnail and fault of an image."""
    try:
        image = dataset[index].image
    except DataError as error:
        return "", np.zeros(THUMBNAIL**2, np.float32), str(error)
    pixels: UInt8[np.ndarray, "3 h w"] = image.contiguous().numpy()
    digest = hashlib.sha1(pixels.tobytes(), usedforsecurity=False)
    digest.update(str(pixels.shape).encode())
    small = resize(image, (THUMBNAIL, THUMBNAIL)).float().mean(0).flatten()
    small -= small.mean()
    spread = small.square().mean().sqrt()
    thumbnail = small * 64 / spread if spread > 1 else torch.zeros_like(small)
    return digest.hexdigest(), thumbnail.numpy(), ""


def similar_pairs(thumbnails: Float[np.ndarray, "I _"], chunk: int = 1024) -> list[tuple[int, int]]:
    """Return the pairs of pictures of which the thumbnails differ by at most ``ALIKE`` on average.

    Args:
        thumbnails: grey values of each picture, with mean 0; zeros for a picture to pass over.
        chunk: number of pictures that are compared with all others at once.
    """
    found: list[tuple[int, int]] = []
    squares = (thumbnails**2).sum(1)
    # The mean square bounds the mean difference from above, and is a product of matrices.
    limit = ALIKE**2 * thumbnails.shape[1]
    for start in range(0, len(thumbnails), chunk):
        block = thumbnails[start : start + chunk]
        distance = squares[start : start + chunk, None] + squares - 2 * block @ thumbnails.T
        close = (distance <= limit) & (squares > 0) & (squares[start : start + chunk, None] > 0)
        rows, columns = np.nonzero(close)
        found.extend(
            (start + row, column)
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            if start + row < column
        )
    return found
