"""Memory of the CPU that is freed stays with the process."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""``mallopt``'s numbers for: free bytes at the heap's top that go back; blocks outside the heap."""


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the whole process.

    A training step frees hundreds of megabytes that the next one asks for again. glibc hands large
    blocks back to the system, which then clears each page anew when it is touched first: a tenth of
    a step on a CPU. Without glibc nothing is done.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt = getattr(library, "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, -1)  # never
        mallopt(MMAP_MAX, 0)  # none
