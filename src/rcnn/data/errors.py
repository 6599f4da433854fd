"""Faults of a data set: one exception, one warning, and the log that decides between the two."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Literal

from rcnn.settings import require

OnError = Literal["raise", "skip"]

QUOTED = 3  # faults that a warning quotes; the log keeps all


class DataError(ValueError):
    """A fault of a data set, with file, object, value and what is allowed.

    Attributes:
        reason: the kind of fault, in the few words under which it is counted.
    """

    def __init__(self, message: str, reason: str = "unusable data") -> None:
        # The reason has a default because a DataLoader rebuilds the exceptions of its workers
        # from the message alone.
        super().__init__(message)
        self.reason = reason

    @classmethod
    def about(cls, reason: str, *, where: str, found: str, allowed: str) -> DataError:
        """Return an error in the common form.

        Args:
            reason: kind of fault.
            where: file, and object or line inside it.
            found: offending value.
            allowed: what would be right, a sentence without full stop.
        """
        stop = "" if found.endswith(("?", ".")) else "."
        return cls(f"{where}: {reason}: {found}{stop} {allowed}.", reason)


class DataWarning(UserWarning):
    """Faults of a data set that were left out because ``on_error`` is ``skip``."""


class Problems:
    """The log of faults found while a data set is opened.

    Attributes:
        on_error: ``raise`` stops at the first fault, ``skip`` counts it and leaves it out.
        counts: number of faults of each reason that were left out.
        messages: the same faults in words.
    """

    def __init__(self, on_error: OnError = "raise") -> None:
        require(on_error in ("raise", "skip"), "on_error", on_error, "choose 'raise' or 'skip'")
        self.on_error = on_error
        self.counts: Counter[str] = Counter()
        self.messages: list[str] = []

    def add(self, error: DataError) -> None:
        """Count a fault.

        Raises:
            DataError: the same, with what to do about it, if ``on_error`` is ``raise``.
        """
        if self.on_error == "raise":
            raise DataError(
                f"{error} Correct it, or set data.on_error=skip to leave such cases out, counted.",
                error.reason,
            ) from error
        self.counts[error.reason] += 1
        self.messages.append(str(error))

    def warn(self, where: str) -> None:
        """Issue one ``DataWarning`` about all that was left out of ``where``, if any was."""
        if not self.messages:
            return
        counts = ", ".join(f"{count} x {reason}" for reason, count in self.counts.most_common())
        quoted = " ".join(self.messages[:QUOTED])
        more = " ..." if len(self.messages) > QUOTED else ""
        warnings.warn(
            f"{where}: left out {counts} (data.on_error=skip). {quoted}{more}",
            DataWarning,
            stacklevel=4,
        )

    def include(self, other: Problems) -> None:
        """Add what another log has counted."""
        self.counts.update(other.counts)
        self.messages.extend(other.messages)
