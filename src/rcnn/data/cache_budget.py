"""One limit of memory for the pictures of several splits.

Letters: I images. Sizes are (height, width).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32

from rcnn.data.cache import PictureCache, smaller_sizes


class CacheBudget:
    """Deals memory out to the splits of a run: the first takes what it needs, the next the rest.

    Args:
        limit: bytes for the pictures of all splits; 0 for no cache.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._caches: dict[str, tuple[object, PictureCache]] = {}

    def cache(
        self,
        split: str,
        sizes: Int32[np.ndarray, "I 2"],
        sides: tuple[int, ...],
        longer_side: int,
        antialias: bool,
    ) -> PictureCache | None:
        """Return the cache of a split, the same as before unless its pictures have another use.

        With one size to resize to, pictures are kept resized where that makes them smaller, as it
        does photographs of cameras. Else the file's own pixels are kept: those of VOC and COCO,
        which are mostly enlarged.

        Args:
            split: by which the cache is found again.
            sizes: of the pictures in their files.
            sides: what the shorter side may become, in pixels; empty if the originals are needed.
            longer_side: pixels that the longer side does not exceed.
            antialias: low-pass filter before shrinking.

        Raises:
            SettingsError: if the machine has not that much shared memory.
        """
        if self._limit == 0:
            return None
        use = (sides, longer_side, antialias)
        if split in self._caches and self._caches[split][0] != use:
            del self._caches[split]
        if split not in self._caches:
            if len(sides) == 1:
                sizes = smaller_sizes(sizes, sides[0], longer_side)
            taken = sum(cache.size for _, cache in self._caches.values())
            self._caches[split] = use, PictureCache(sizes, self._limit - taken, antialias)
        return self._caches[split][1]
