"""How long a training took, over all the runs that it was interrupted between."""

from __future__ import annotations

from typing import cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer


def timer_of(trainer: pl.Trainer) -> Timer:
    """Return the clock of a trainer that has not begun, which it gets if it has none.

    Its time travels with the checkpoints: a training that goes on from one counts on from there, so
    that in the end ``time_elapsed()`` is the time of the steps that led to the result, with their
    validations. Steps that were lost and taken again count once.
    """
    callbacks = cast(list[pl.Callback], trainer.callbacks)  # type: ignore[attr-defined]
    found = next((one for one in callbacks if isinstance(one, Timer)), None)
    if found is None:
        found = Timer()
        callbacks.append(found)
    return found
