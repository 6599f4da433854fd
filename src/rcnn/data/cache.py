"""Pictures that stay in memory, in one place for all workers of a loader.

Letters: I images, (h, w) of one picture. Sizes are (height, width).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int32, UInt8
from torch import Tensor

from rcnn.ops import images
from rcnn.settings import SettingsError

MISSING, PLANAR, INTERLEAVED = 0, 1, 2
MEMORY = Path("/proc/meminfo")


def smaller_sizes(
    sizes: Int32[np.ndarray, "I 2"], shorter_side: int, longer_side: int
) -> Int32[np.ndarray, "I 2"]:
    """Return each picture's size before or after it is resized, whichever has fewer pixels.

    Args:
        sizes: of the pictures in their files.
        shorter_side: see :func:`rcnn.ops.images.resized_size`.
        longer_side: likewise.
    """
    different, places = np.unique(sizes, axis=0, return_inverse=True)
    resized = np.array(
        [images.resized_size((h, w), shorter_side, longer_side) for h, w in different.tolist()],
        dtype=np.int32,
    )
    smaller = resized.prod(1, dtype=np.int64) < different.prod(1, dtype=np.int64)
    return np.where(smaller[:, None], resized, different)[places.reshape(-1)]


class PictureCache:
    """The first pictures of a data set, as many as fit, each kept when it is first decoded.

    The memory is claimed whole when the cache is made, so that a training does not run out of it
    hours later, and is shared with every process that the cache is sent to, forked or spawned.
    Every picture has its place from the beginning, and whoever decodes it writes the same bytes;
    so the workers need no lock. Pictures come back as views: nobody may write to them.

    Args:
        sizes: at which the pictures are kept.
        limit: bytes that the pictures may fill.
        antialias: how a picture of another size is resized to that of ``sizes``.

    Raises:
        SettingsError: if the machine has not that much shared memory.
    """

    def __init__(self, sizes: Int32[np.ndarray, "I 2"], limit: int, antialias: bool = True) -> None:
        ends = np.cumsum(3 * sizes.prod(1, dtype=np.int64))
        count = int(np.searchsorted(ends, limit, side="right"))
        self._sizes = sizes[:count]
        self._ends = ends[:count]
        self._antialias = antialias
        self._pixels = _shared(int(ends[count - 1]) if count else 0)
        self._states = _shared(count)

    def __len__(self) -> int:
        """How many pictures have a place."""
        return len(self._sizes)

    @property
    def size(self) -> int:
        """Bytes of memory that are claimed for pictures."""
        return len(self._pixels)

    @property
    def filled(self) -> int:
        """How many pictures are there by now."""
        return int((self._states != MISSING).sum())

    def get(self, index: int) -> UInt8[Tensor, "3 h w"] | None:
        """Return a picture, None if it was not kept (yet)."""
        state = int(self._states[index]) if index < len(self) else MISSING
        return None if state == MISSING else self._view(index, state)

    def keep(self, index: int, picture: UInt8[Tensor, "3 _ _"]) -> UInt8[Tensor, "3 _ _"]:
        """Return a picture at the size at which it is kept, or as it is if it has no place."""
        if index >= len(self):
            return picture
        height, width = self._sizes[index].tolist()
        picture = images.resize(picture, (height, width), self._antialias)
        # The order of bytes stays that of the decoder or of the filter: what reads the picture
        # afterwards is as fast as without a cache.
        state = INTERLEAVED if picture.stride(0) == 1 else PLANAR
        self._view(index, state).copy_(picture)
        self._states[index] = state  # after the pixels are there
        return picture

    def _view(self, index: int, state: int) -> UInt8[Tensor, "3 h w"]:
        height, width = self._sizes[index].tolist()
        end = int(self._ends[index])
        pixels = self._pixels[end - 3 * height * width : end]
        if state == PLANAR:
            return pixels.view(3, height, width)
        return pixels.view(height, width, 3).permute(2, 0, 1)


def _shared(count: int) -> UInt8[Tensor, " count"]:
    """Return zeros in memory that other processes map, too."""
    try:
        if count > _free_memory():
            raise RuntimeError("there is less free memory")
        zeros = torch.zeros(count, dtype=torch.uint8)
        return zeros.share_memory_() if count else zeros
    except RuntimeError as error:
        raise SettingsError(
            f"cache_gib is too large: {count / 2**30:.2f} GiB of shared memory are not to be had "
            f"({error}). Choose less, or give a container more of it (docker run --shm-size)."
        ) from error


def _free_memory() -> float:
    """Return how many bytes can be claimed before the system has to end processes (Linux)."""
    if not MEMORY.is_file():
        return math.inf
    lines = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
    return 1024.0 * int(lines["MemAvailable"].split()[0])
