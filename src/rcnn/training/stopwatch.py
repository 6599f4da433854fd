"""Charging time to the parts of a computation."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


class Stopwatch:
    """Charges time to one part at a time.

    Args:
        part: the first one.
        device: which is waited for at every switch, since a GPU lags behind.
        clock: seconds, from any start.

    Attributes:
        seconds: of each part so far.
    """

    def __init__(
        self, part: str, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._part = part
        self._device = device
        self._clock = clock
        self._since = self._now()

    def switch(self, part: str) -> str:
        """Charge the time since the last switch to the part so far, and return its name."""
        now, before = self._now(), self._part
        self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._part, self._since = part, now
        return before

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()
