"""Products of a training in stages, each stored under a name that says what went into it.

A stage is found again only if everything that went into it is the same: settings, data, length,
seed, and the stages before it. So a run that was killed goes on where it stopped, a run of other
settings never takes a wrong product, and two runs that differ late share what they have in common.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INPUTS, SPENT = "inputs.json", "spent.json"
"""In the folder of a stage: what went into it, and how long it took."""


class StageError(RuntimeError):
    """The folder of a stage is not what it should be."""


@dataclass(frozen=True)
class Stage:
    """One step of a training.

    Attributes:
        name: for people, such as ``1_rpn``.
        inputs: everything that changes its product, as plain numbers, strings, lists and mappings.
        parents: the stages whose products it starts from.
    """

    name: str
    inputs: Mapping[str, Any]
    parents: Sequence[Stage] = ()

    @property
    def record(self) -> str:
        """What went into it, as text, with the keys of the parents."""
        content = {"inputs": self.inputs, "parents": [parent.key for parent in self.parents]}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    @property
    def key(self) -> str:
        """Its name, and 12 hexadecimal digits that change with everything that went into it."""
        return f"{self.name}-{hashlib.sha256(self.record.encode()).hexdigest()[:12]}"


class StageStore:
    """The folder that holds the products of stages, finished or begun.

    Args:
        folder: made when needed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def find(self, stage: Stage) -> Path | None:
        """Return the folder of a finished stage, or None.

        Raises:
            StageError: if something else stands in it.
        """
        folder = self.folder / stage.key
        if not folder.exists():
            return None
        record = folder / INPUTS
        if not record.is_file() or record.read_text() != stage.record:
            raise StageError(
                f"{folder} is not the product of this stage: {INPUTS} is missing or tells of other "
                "settings. Delete the folder, or name another with scheme.store=..."
            )
        return folder

    def begin(self, stage: Stage) -> Path:
        """Return the folder to work in; what an interrupted run left in it is still there."""
        folder = self.folder / f"{stage.key}.partial"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INPUTS).write_text(stage.record)
        return folder

    def finish(self, stage: Stage, seconds: float) -> Path:
        """Give the folder its final name: from now on the stage is found.

        Args:
            stage: whose product is complete.
            seconds: that it took, for :meth:`seconds`.
        """
        folder = self.folder / stage.key
        partial = self.folder / f"{stage.key}.partial"
        (partial / SPENT).write_text(json.dumps({"seconds": seconds}) + "\n")
        partial.rename(folder)
        return folder

    def seconds(self, stage: Stage) -> float:
        """Return how long a finished stage took, whenever that was."""
        return float(json.loads((self.folder / stage.key / SPENT).read_text())["seconds"])

    def wait(self, stage: Stage, seconds: float = 0.5) -> Path:
        """Wait until another process has finished the stage."""
        while (folder := self.find(stage)) is None:
            time.sleep(seconds)
        return folder
