"""Leaving out what libraries say that is no news to the user of this one."""

from __future__ import annotations

import logging
import warnings

_NO_NEWS = (
    "Experiment logs directory .* exists and is not empty",  # the run folder holds the config
    ".*isinstance\\(treespec, LeafSpec\\).* is deprecated",  # between Lightning and torch
    ".*does not have many workers.*",  # loader.workers is the user's choice
    "The number of training batches .* is smaller than the logging interval",
    ".*DistributedSampler.*",  # ours gives each process its share, without padding
    "Total length of .* is zero",  # there is no validation split
    "Checkpoint directory .* exists and is not empty",  # a step of a training that goes on
    ".*your dataloader is not resumable.*",  # ours goes on inside an epoch
    "Found .* module\\(s\\) in eval mode at the start of training",  # frozen batch norms
)


def quieten() -> None:
    """Let Lightning speak up only for warnings, and not for those that are no news."""
    # Hydra has set up logging in the first process; processes that it does not know need it, too.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NO_NEWS:
        warnings.filterwarnings("ignore", message)
