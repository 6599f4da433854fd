"""The stored proposals of all splits of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.data.splits import Split
from rcnn.data.stored.attach import attach
from rcnn.data.stored.proposed import ProposedDataset
from rcnn.data.stored.store import StoredProposals
from rcnn.settings import require


@dataclass(frozen=True)
class ProposalFiles:
    """Where the proposals of a run lie.

    Attributes:
        folder: holds ``train.proposals``, ``val.proposals`` and ``test.proposals``, of those
            splits that the run uses; null for a detector that makes its own.
        limit: how many of an image are read at most, the best (Fast R-CNN, section 2: about 2000).
    """

    folder: str | None = None
    limit: int = 2000

    def __post_init__(self) -> None:
        require(self.limit >= 1, "limit", self.limit, "it is 1 or more")

    def attach(self, dataset: DetectionDataset, split: Split) -> ProposedDataset:
        """Return the data set of a split with its proposals, checked against each other.

        Raises:
            DataError: if the file is not there, damaged, or of another data set.
        """
        if self.folder is None:
            raise DataError(
                "The detector makes no proposals, and proposals.folder is null. Make some with "
                "`rcnn propose` and name their folder.",
                "missing proposals",
            )
        path = Path(self.folder, f"{split}.proposals")
        if not path.is_file():
            raise DataError(
                f"{path}: there is no such file. Make the proposals of the {split} split with "
                f"`rcnn propose ... --out {path}`.",
                "missing proposals",
            )
        return attach(dataset, StoredProposals(path), self.limit)
