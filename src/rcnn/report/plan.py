"""What a sweep is to show: the node ``sweep`` of its config, which every job carries.

It names the rows of a table and how a job is known to belong to one, the figures of a paper, and
what the paper concludes from them, so that the folder of the sweep alone is enough for a report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rcnn.settings import require

Unit = Literal["%", "", "s", "min", "h", "ms"]

FACTORS: dict[Unit, float] = {"%": 100, "": 1, "s": 1, "min": 1 / 60, "h": 1 / 3600, "ms": 1000}
"""From what ``metrics.json`` holds, fractions and seconds, to each unit."""


@dataclass(frozen=True)
class Column:
    """One measure.

    Attributes:
        title: of the column.
        tag: in ``metrics.json``, such as ``test/map_50``; or ``seconds`` or ``steps``.
        unit: of what is shown, and of the paper's figures.
    """

    title: str
    tag: str
    unit: Unit = "%"

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        label: its name.
        where: dotted keys of a job's config, and the values by which the job belongs here.
        paper: the paper's figures by the column's title; what is not among them is not known.
    """

    label: str
    where: Mapping[str, Any]
    paper: Mapping[str, float]

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Say whether a job with this config belongs here."""
        return all(_same(_find(config, key), value) for key, value in self.where.items())


@dataclass(frozen=True)
class Claim:
    """What a paper concludes: one row reaches at least as much as others.

    Attributes:
        says: it in words.
        more: the label of the row that reaches as much.
        less: the labels of the others.
        times: it reaches at least so many times as much.
        within: it may fall short by this much, in the column's unit.
        column: the title of the column; null is the first.
    """

    says: str
    more: str
    less: tuple[str, ...]
    within: float = 0.0
    column: str | None = None
    times: float = 1.0

    def __post_init__(self) -> None:
        require(self.times > 0, "times", self.times, "it is above 0")


@dataclass(frozen=True)
class Plan:
    """A whole table.

    Attributes:
        title: what is compared.
        source: whose table it is.
        columns: the measures, the most important first.
        rows: in the paper's order.
        claims: the conclusions.
    """

    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]

    def row_of(self, config: Mapping[str, Any]) -> Row | None:
        """Return the first row that a job with this config belongs to."""
        return next((row for row in self.rows if row.matches(config)), None)


_MISSING = object()


def _find(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _same(left: Any, right: Any) -> bool:
    # In Python True is 1, in a config it is not.
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)
