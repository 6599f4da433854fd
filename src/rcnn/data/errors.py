"""Faults of a data set: the error, the warning, and the log of what was made of each fault.

What is done about a fault is the user's choice, ``data.on_error``:

========== ================================== ============================================
policy     a careful reader can settle it     nobody can settle it
========== ================================== ============================================
``repair`` it is settled and counted          it is an error
``raise``  it is an error                     it is an error
``skip``   it is settled and counted          it is left out and counted, never made background
========== ================================== ============================================
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rcnn.settings import require

OnError = Literal["repair", "raise", "skip"]
Outcome = Literal["repaired", "left out", "noted"]

KEPT = 1000  # cases of a kind that the log keeps in full; it counts all


class DataError(ValueError):
    """A fault of a data set, with file, object, value and what is allowed.

    Attributes:
        reason: the kind of fault, in the few words under which it is counted.
        where: file, and object or line inside it; empty if the fault is of no single file.
        found: offending value.
        is_final: whether the policy has refused it already, and the message says what to do.
    """

    is_final = False

    def __init__(
        self, message: str, reason: str = "unusable data", where: str = "", found: str = ""
    ) -> None:
        # All but the message have defaults because a DataLoader rebuilds the exceptions of its
        # workers from the message alone.
        super().__init__(message)
        self.reason, self.where, self.found = reason, where, found

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
        return cls(f"{where}: {reason}: {found}{stop} {allowed}.", reason, where, found)

    @classmethod
    def of(cls, error: Exception, where: str) -> DataError:
        """Return any exception as a data error: itself if it is one, else with file and entry."""
        if isinstance(error, DataError):
            return error
        return cls.about(
            "unreadable entry",
            where=where,
            found=f"{type(error).__name__}: {' '.join(str(error).split())}",
            allowed="It has to be complete and in the format of its layout",
        )


class DataWarning(UserWarning):
    """What was repaired, left out or noteworthy when a data set was opened."""


@dataclass(frozen=True)
class Case:
    """One fault and what was made of it.

    Attributes:
        where: file, and object or line inside it.
        found: offending value.
        made: what the reader made of it.
    """

    where: str
    found: str
    made: str


@dataclass
class Kind:
    """All faults of one kind.

    Attributes:
        kind: the kind, in a few words.
        outcome: whether they were repaired, left out, or are only worth a note.
        count: number of cases.
        cases: the first ``KEPT`` of them.
    """

    kind: str
    outcome: Outcome
    count: int = 0
    cases: list[Case] = field(default_factory=list)

    def table(self, cases: int = KEPT) -> list[str]:
        """Return the kind with its number as a line, and the first cases as others."""
        rows = self.cases[:cases]
        more = [f"    and {self.count - len(rows)} more"] if self.count > len(rows) else []
        return [
            f"  {self.count} x {self.kind} ({self.outcome})",
            *(f"    {case.where}: {case.found}: {case.made}" for case in rows),
            *more,
        ]


class Problems:
    """The log of what was found while a data set was opened, and of what was made of it.

    Attributes:
        on_error: the policy, see the module.
        kinds: what was found, by kind and outcome.
    """

    def __init__(self, on_error: OnError = "repair") -> None:
        require(
            on_error in ("repair", "raise", "skip"),
            *("on_error", on_error, "choose 'repair', 'raise' or 'skip'"),
        )
        self.on_error = on_error
        self.kinds: dict[tuple[str, Outcome], Kind] = {}

    @property
    def counts(self) -> Counter[str]:
        """The number of cases of each kind that were repaired or left out."""
        counts: Counter[str] = Counter()
        for row in self.kinds.values():
            counts[row.kind] += row.count * (row.outcome != "noted")
        return +counts

    def settle(self, kind: str, *, where: str, found: str, made: str) -> None:
        """Count a fault that the reader has settled.

        Args:
            kind: kind of fault, in a few words.
            where: file, and object or line inside it.
            found: offending value.
            made: what the reader makes of it.

        Raises:
            DataError: the policy is ``raise``.
        """
        if self.on_error == "raise":
            remedy = f"Correct it, or set data.on_error=repair: {made}"
            error = DataError.about(kind, where=where, found=found, allowed=remedy)
            error.is_final = True
            raise error
        self._add(kind, "repaired", Case(where, found, made))

    def leave_out(self, error: DataError, made: str) -> None:
        """Count a fault that cannot be settled, in something that is left out.

        Args:
            error: the fault.
            made: what becomes of the image or object.

        Raises:
            DataError: the same with what to do about it, unless the policy is ``skip``.
        """
        if error.is_final:
            raise error
        if self.on_error != "skip":
            remedy = f"{error} Correct it, or set data.on_error=skip: {made}."
            final = DataError(remedy, error.reason, error.where, error.found)
            final.is_final = True
            raise final from error
        case = Case(error.where or str(error), error.found or error.reason, made)
        self._add(error.reason, "left out", case)

    def note(self, kind: str, *, where: str, found: str, made: str) -> None:
        """Count something that is no fault, but that the user should know."""
        self._add(kind, "noted", Case(where, found, made))

    def summary(self, examples: int = 3) -> list[dict[str, Any]]:
        """Return a row for each kind, of plain values: kind, outcome, count and first cases."""
        return [
            {**asdict(row), "cases": [asdict(case) for case in row.cases[:examples]]}
            for row in self.kinds.values()
        ]

    def warn(self, where: str) -> None:
        """Issue one ``DataWarning`` with all kinds and their first cases, if there is any."""
        if self.kinds:
            lines = [f"{where} (data.on_error={self.on_error}):"]
            lines += [line for row in self.kinds.values() for line in row.table(cases=1)]
            warnings.warn("\n".join(lines), DataWarning, stacklevel=4)

    def include(self, other: Problems) -> None:
        """Add what another log holds."""
        for row in other.kinds.values():
            for case in row.cases:
                self._add(row.kind, row.outcome, case)
            self.kinds[row.kind, row.outcome].count += row.count - len(row.cases)

    def _add(self, kind: str, outcome: Outcome, case: Case) -> None:
        row = self.kinds.setdefault((kind, outcome), Kind(kind, outcome))
        row.count += 1
        if len(row.cases) < KEPT:
            row.cases.append(case)
