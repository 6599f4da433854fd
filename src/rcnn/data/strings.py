"""Many strings in two arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings that holds no Python object per string.

    A list of strings would be copied page by page into every DataLoader worker, because merely
    looking at an object writes its reference count.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode() for string in strings]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PackedStrings: ...
    def __getitem__(self, index: int | slice) -> str | PackedStrings:
        places = range(len(self))[index]
        if isinstance(places, range):
            return PackedStrings(self[place] for place in places)
        return self._bytes[self._ends[places] : self._ends[places + 1]].tobytes().decode()
