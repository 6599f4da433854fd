"""Telling the user what was decided, once, whatever the number of processes."""

from __future__ import annotations

import logging

from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger("rcnn")


@rank_zero_only
def announce(message: str) -> None:
    """Log ``message`` in the first process."""
    log.info(message)
