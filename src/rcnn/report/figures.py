"""Figures over the seeds of a row, and how they are written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rcnn.report.plan import FACTORS, Column, Unit
from rcnn.report.runs import Run


@dataclass(frozen=True)
class Figure:
    """One measure of the runs of one row, in the column's unit.

    Attributes:
        values: of the finished runs that have it.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """None if nothing was measured."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation; None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | tuple[()]:
        """From the mean less to the mean plus the spread; both the mean itself for one value."""
        if self.mean is None:
            return ()
        return self.mean - (self.spread or 0.0), self.mean + (self.spread or 0.0)


def measure(runs: Sequence[Run], column: Column) -> Figure:
    """Return what the finished ones of ``runs`` measured."""
    values = [run.value(column.tag) for run in runs]
    factor = FACTORS[column.unit]
    return Figure(tuple(factor * value for value in values if value is not None))


def written(value: float | None, unit: Unit) -> str:
    """Return a figure with as many digits as it is worth; a dash for none."""
    return "-" if value is None else f"{value:,.{_decimals(value, unit)}f}"


def spelled_figure(figure: Figure, unit: Unit) -> str:
    """Return the mean and, with as many decimals, its spread, if it has one."""
    if figure.mean is None or figure.spread is None:
        return written(figure.mean, unit)
    decimals = _decimals(figure.mean, unit)
    return f"{written(figure.mean, unit)} ± {figure.spread:,.{decimals}f}"


def _decimals(value: float, unit: Unit) -> int:
    if unit == "%":
        return 1
    # Three digits that count, and none behind the point from a hundred on.
    return next((n for n, least in ((0, 100), (1, 10), (2, 1)) if abs(value) >= least), 3)


def column_of(tag: str) -> Column:
    """Return a column for a tag that no plan describes."""
    name = tag.rpartition("/")[2]
    if name.startswith(("map", "mar", "voc", "recall")):
        return Column(tag, tag, "%")
    return Column(tag, tag, "s" if name == "seconds" else "")
