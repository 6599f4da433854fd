"""The folders of runs, and the definition of a table that the config of a sweep carries.

The key ``sweep`` of a config names the rows of a paper's table, the values by which a job belongs
to a row, and the paper's figures. Every job of the sweep stores it, so that the folder of the sweep
alone is enough for a report.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from rcnn.settings import SettingsError, from_plain, nearest, require, settings

CONFIG, METRICS = "config.yaml", "metrics.json"

Unit = Literal["%", "", "s", "min", "h", "ms"]

FACTORS: dict[Unit, float] = {"%": 100, "": 1, "s": 1, "min": 1 / 60, "h": 1 / 3600, "ms": 1000}
"""Factors from the fractions and seconds of ``metrics.json`` to each unit."""


class ReportError(ValueError):
    """Runs that cannot be reported on, or not together."""


@settings
class Column:
    """One measure of a table.

    Attributes:
        tag: key in ``metrics.json``, such as ``test/map_50``, ``seconds`` or ``steps``.
        unit: unit of the shown figures and of the paper's.
    """

    tag: str
    unit: Unit = "%"

    def heading(self, title: str) -> str:
        """Return the title of the column with its unit."""
        return f"{title} ({self.unit})" if self.unit else title

    def text(self, value: float, std: float = math.nan) -> str:
        """Return a figure with the digits that it is worth; a dash for NaN.

        Args:
            value: value or mean in the unit of the column.
            std: standard deviation, which is written with as many decimals; NaN leaves it out.
        """
        if math.isnan(value):
            return "-"
        # One decimal for a percentage, else three significant digits, from 100 on none.
        significant = [n for n, least in ((0, 100), (1, 10), (2, 1)) if abs(value) >= least]
        decimals = 1 if self.unit == "%" else [*significant, 3][0]
        spread = "" if math.isnan(std) else f"±{std:,.{decimals}f}"
        return f"{value:,.{decimals}f}{spread}"


@settings
class Row:
    """One row of a table.

    Attributes:
        label: name of the row.
        where: dotted keys of a config and the values that make a job belong to the row.
        paper: the paper's figures by the title of their column.
    """

    label: str
    where: dict[str, Any]
    paper: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(len(self.where) > 0, "where", self.where, "it names at least one key")

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Return whether a job with this config belongs to the row; an absent key is null."""
        flat = _flat(config)
        return all(flat.get(key, "null") == _written(value) for key, value in self.where.items())


@settings
class Plan:
    """The definition of a table: the key ``sweep`` of a config.

    Attributes:
        title: what the table compares.
        source: paper and table that the figures are from.
        data: data set that the paper's figures were measured on.
        columns: the measures by their titles, the most important one first.
        rows: the rows in the paper's order.
        base: values that interpolations of the other keys refer to.
    """

    title: str
    source: str
    data: str
    columns: dict[str, Column]
    rows: tuple[Row, ...]
    base: Any = None

    def __post_init__(self) -> None:
        require(len(self.columns) > 0, "columns", self.columns, "there is at least one column")
        labels = [row.label for row in self.rows]
        require(len(set(labels)) == len(labels), "rows", labels, "every label is used once")
        for i, row in enumerate(self.rows):
            for title in row.paper:
                if title not in self.columns:
                    raise SettingsError(
                        f"rows[{i}].paper: there is no column {title!r}"
                        f"{nearest(title, self.columns)} Columns: {', '.join(self.columns)}."
                    )

    def row_of(self, config: Mapping[str, Any]) -> Row | None:
        """Return the first row that a job with this config belongs to."""
        return next((row for row in self.rows if row.matches(config)), None)


def read_plan(values: object) -> Plan:
    """Return the definition of a table from the key ``sweep`` of a config.

    Raises:
        SettingsError: for an unknown or missing key, a value of the wrong type, two rows of one
            label, or a figure of the paper in a column that does not exist.
    """
    return from_plain(Plan, values, "sweep")


@dataclass(frozen=True)
class Run:
    """One run, finished or not.

    Attributes:
        folder: folder of the run.
        name: shortest path that distinguishes the folder from those of the other runs.
        config: resolved config; empty if the run failed before it was written.
        results: content of ``metrics.json``; None if the run has not finished.
        fault: reason why there are no results; empty if there are.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    results: Mapping[str, Any] | None
    fault: str

    def value(self, tag: str) -> float | None:
        """Return a measure, as a fraction or in seconds; None if the run does not have it."""
        if self.results is None:
            return None
        found = self.results.get("metrics", {}).get(tag, self.results.get(tag))
        return float(found) if isinstance(found, int | float) else None

    def figure(self, column: Column) -> float:
        """Return a measure in the unit of its column; NaN if the run does not have it."""
        value = self.value(column.tag)
        return math.nan if value is None else FACTORS[column.unit] * value

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that have a value."""
        known = [] if self.results is None else [*self.results.get("metrics", {})]
        return tuple(tag for tag in (*known, "seconds", "steps") if self.value(tag) is not None)

    @property
    def seed(self) -> str:
        """The seed of the run, as text."""
        return str(self.config.get("seed"))

    def flat_config(self) -> dict[str, str]:
        """Return the config as dotted keys and written values, for comparison.

        Null is left out, for a key that an older config does not have is null in a newer one, and
        so is the run's own folder, which no two runs share.
        """
        compared = {k: value for k, value in self.config.items() if k not in ("sweep", "run_dir")}
        flat, own = _flat(compared), str(self.config.get("run_dir") or "")
        return {key: value.replace(own, "") for key, value in flat.items()} if own else flat

    def plan(self) -> Plan | None:
        """Return the definition of a table that the run carries, if any.

        Raises:
            ReportError: the definition is not sound.
        """
        if self.config.get("sweep") is None:
            return None
        try:
            return read_plan(self.config["sweep"])
        except SettingsError as error:
            raise ReportError(f"{self.folder / CONFIG}: {error}") from None


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs at or below each folder, in the natural order of their names.

    Args:
        folders: sweep folders, single run folders, or folders of these.

    Raises:
        ReportError: a folder does not exist or holds no run, or a file is not one of a run.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(f"{folder}: there is no such folder.")
        found = sorted(_run_folders(folder), key=_natural)
        if not found:
            raise ReportError(
                f"{folder} holds no runs. A sweep folder holds multirun.yaml and a folder for each "
                f"job (0, 1, ...), each with {CONFIG} and, once it is finished, {METRICS}; a run "
                "folder holds these two itself."
            )
        for path in found:
            parts = path.relative_to(folder).parts
            if not parts or len(folders) > 1:
                parts = (folder.resolve().name, *parts)
            runs.setdefault(path.resolve(), _read(path, "/".join(parts)))
    return list(runs.values())


def _run_folders(folder: Path) -> list[Path]:
    """Return the run folders at or below ``folder``; runs do not lie in runs."""
    if (folder / CONFIG).is_file() or (folder / METRICS).is_file():
        return [folder]
    is_sweep = (folder / "multirun.yaml").is_file()
    found = []
    for child in folder.iterdir():
        if child.is_dir() and not child.name.startswith("."):
            runs = _run_folders(child)
            # A job that failed before it wrote anything has left its number and its log.
            if not runs and is_sweep and (child.name.isdigit() or any(child.glob("*.log"))):
                runs = [child]
            found += runs
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that orders 2 before 10."""
    parts = re.findall(r"\d+|\D+", path.as_posix())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _read(folder: Path, name: str) -> Run:
    config: Mapping[str, Any] = {}
    results, fault = None, ""
    try:
        if (folder / CONFIG).is_file():
            config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        if (folder / METRICS).is_file():
            results = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        fault = f"cannot be read: {' '.join(str(error).split())}"
    if results is None and not fault:
        names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
        fault = f"no {METRICS}; its folder holds {', '.join(names) or 'nothing'}"
    if not isinstance(config, Mapping) or not isinstance(results, Mapping | None):
        raise ReportError(f"{folder}: {CONFIG} or {METRICS} is not one of a run of this package.")
    return Run(folder, name, config, results, fault)


def _flat(node: Any, key: str = "") -> dict[str, str]:
    """Return a config as dotted keys and written values, without those that are null."""
    if not isinstance(node, Mapping):
        return {} if node is None else {key: _written(node)}
    found: dict[str, str] = {}
    for name, value in node.items():
        found |= _flat(value, f"{key}.{name}" if key else str(name))
    return found


def _written(value: Any) -> str:
    """Return a value of a config as it is typed on the command line; 1.0 is 1."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
