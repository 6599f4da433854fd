"""How far a training has come."""

from __future__ import annotations

from typing import cast

import pytorch_lightning as pl
from pytorch_lightning.loops.progress import _ProcessedTracker


def batches_done(trainer: pl.Trainer) -> int:
    """Return how many minibatches each process of a training has behind it, resumed ones included.

    All that is random about a step hangs on this number. Lightning's epochs do not serve: it opens
    the loader before it names the epoch, and a run of ``max_steps`` that is resumed from the end of
    an epoch counts that epoch twice (seen with Lightning 2.6.6).
    """
    # Typed as its base class, which does not count what is processed.
    total = cast(_ProcessedTracker, trainer.fit_loop.epoch_loop.batch_progress.total)
    return total.processed
