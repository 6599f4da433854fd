"""The table of a report: figures of a paper beside ours, over the seeds of every row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rcnn.report.runs import Column, Plan, ReportError, Row, Run, Unit
from rcnn.settings import nearest

MEASURES = ("map", "map_50", "voc07_map")
"""The measures, beside the seconds of training, of runs without the definition of a table."""

SEEDS = ("seed", "loader.seed")
"""Runs that differ in these keys alone are repetitions of one another."""

FIGURES = (
    *("measure", "unit", "paper", "ours", "difference", "std", "n"),
    *("values", "seeds", "runs", "unfinished"),
)
"""The columns of ``Report.figures`` after the keys."""


@dataclass(frozen=True)
class Line:
    """One line of the table: runs that differ in their seeds alone.

    Attributes:
        cells: the values that distinguish the line, one for each key of the report.
        section: number of the table that the line belongs to, where a report has several.
        row: the row of the plan; None without a plan.
        runs: finished and unfinished runs; none where a row has not been run.
    """

    cells: tuple[str, ...]
    section: int
    row: Row | None
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The cells as one text."""
        return " / ".join(self.cells)

    @property
    def finished(self) -> list[Run]:
        """The runs that have results."""
        return [run for run in self.runs if run.results is not None]


@dataclass(frozen=True)
class Report:
    """A table with its context.

    Attributes:
        plan: the definition of the table; None where runs are compared without one.
        columns: the measures by title.
        keys: names of the cells of the lines: config keys, then "row" where there is a plan.
        lines: the lines from top to bottom.
        figures: a row for each line and measure, indexed by the line's number and the measure's
            title: the keys, ``measure`` (its tag), ``unit``, ``paper``, ``ours`` (mean),
            ``difference``, ``std`` (sample standard deviation), ``n``, ``values``, ``seeds``,
            ``runs`` (tuples of length n) and ``unfinished`` (names). NaN is unknown.
        context: data, backbone, length and seeds of our runs.
        our_data: data set of ours.
        warnings: runs that are missing in the table and why, and what limits the comparison.
    """

    plan: Plan | None
    columns: Mapping[str, Column]
    keys: tuple[str, ...]
    lines: tuple[Line, ...]
    figures: pd.DataFrame
    context: str
    our_data: str
    warnings: tuple[str, ...]


def compare(runs: Sequence[Run], tags: Sequence[str] = ()) -> Report:
    """Compare runs by the table of their sweep, or else by the keys in which they differ.

    Args:
        runs: finished and unfinished runs.
        tags: measures to show instead of the table's own.

    Raises:
        ReportError: no run has such a measure, or the runs belong to different tables.
    """
    plan = _common_plan(runs)
    columns = _columns(runs, tags, plan)
    keys, lines, unmatched, others = _group(runs, plan)
    return Report(
        plan,
        columns,
        keys,
        lines,
        figures=_figures(keys, lines, columns),
        context=_context(runs),
        our_data=" / ".join(dict.fromkeys(_data_name(run.config) for run in runs if run.config)),
        warnings=tuple(_warnings(lines, unmatched, others, columns)),
    )


def _common_plan(runs: Sequence[Run]) -> Plan | None:
    plans: dict[str, Plan] = {}
    for run in runs:
        if (plan := run.plan()) is not None:
            plans.setdefault(plan.title, plan)
    if len(plans) > 1:
        raise ReportError(
            f"These folders hold {len(plans)} different tables: {', '.join(map(repr, plans))}. "
            "Report on one at a time."
        )
    return next(iter(plans.values()), None)


def _columns(runs: Sequence[Run], tags: Sequence[str], plan: Plan | None) -> dict[str, Column]:
    measured = sorted({tag for run in runs for tag in run.tags})
    for tag in tags:
        if measured and tag not in measured:
            raise ReportError(
                f"No run has measured {tag!r}{nearest(tag, measured)} "
                f"There are: {', '.join(measured)}."
            )
    if plan is not None and not tags:
        return plan.columns
    if not tags:
        common = [[f"{split}/{name}" for name in MEASURES] for split in ("test", "val")]
        test, val = ([tag for tag in tags if tag in measured] for tags in common)
        tags = [*(test or val), "seconds"] if test or val else ["test/map"]
    planned = {} if plan is None else {c.tag: (title, c) for title, c in plan.columns.items()}
    return dict(planned.get(tag, (tag, Column(tag, _unit(tag)))) for tag in tags)


def _unit(tag: str) -> Unit:
    name = tag.rpartition("/")[2]
    if name.startswith(("map", "mar", "voc", "recall")):
        return "%"
    return "s" if name.startswith("seconds") else ""


# Grouping


def _group(
    runs: Sequence[Run], plan: Plan | None
) -> tuple[tuple[str, ...], tuple[Line, ...], list[Run], list[str]]:
    """Return keys, lines, the runs in no line, and the differing keys that are not among the keys.

    With a plan every combination of the keys has all rows; runs of one row are never averaged if
    they differ in more than their seeds, nor are runs on different data in one table.
    """
    labelled = [(run, _label(run, plan)) for run in runs]
    unmatched = [run for run, label in labelled if label is None]
    members = [run for run, label in labelled if label is not None]
    labels = [label for _, label in labelled if label is not None]
    configs = pd.DataFrame([run.flat_config() for run in members], index=range(len(members)))
    configs = configs.fillna("null")

    differing = {key for _, of_row in configs.groupby(labels) for key in _varying(of_row)}
    differing |= {key for key in _varying(configs) if key.startswith("data.")}
    ordered = [key for key in configs.columns if key in differing]
    named = _distinguishing(ordered, configs)
    others = [key for key in ordered if key not in named]
    are_repetitions = len({run.seed for run in members}) == len(members) > 1
    if plan is None and not named and not are_repetitions:
        # Nothing but their folders distinguishes these runs.
        configs, named = configs.assign(run=[run.name for run in members]), ["run"]

    kinds = [tuple(values) for values in configs[named].to_numpy().tolist()]
    by_line: dict[tuple[tuple[str, ...], str], list[Run]] = {}
    for kind, label, run in zip(kinds, labels, members, strict=True):
        by_line.setdefault((kind, label), []).append(run)
    lines = []
    for n, kind in enumerate(dict.fromkeys(kinds) if kinds or plan is None else [()]):
        cells = tuple(map(_short, named, kind))
        if plan is None:
            lines.append(Line(cells or ("all",), 0, None, tuple(by_line[kind, ""])))
            continue
        for row in plan.rows:
            own = tuple(by_line.get((kind, row.label), ()))
            lines.append(Line((*cells, row.label), n, row, own))
    last = [] if plan is None and named else ["row"]
    return (*named, *last), tuple(lines), unmatched, others


def _label(run: Run, plan: Plan | None) -> str | None:
    """Return the label of a run's row, ``""`` without a plan, None where it belongs to no row."""
    if plan is None or not run.config:
        return "" if run.config else None
    # Its own plan: the values of a row may depend on the run's data. A run that was started without
    # a plan is compared with the rows of the others.
    row = (run.plan() or plan).row_of(run.config)
    return row.label if row is not None and row.label in {r.label for r in plan.rows} else None


def _short(key: str, value: str) -> str:
    return value.rpartition(".")[2] if key.endswith("_target_") else value


def _varying(configs: pd.DataFrame) -> list[str]:
    """Return the keys, other than seeds, that do not have the same value in all configs."""
    return [key for key in configs.columns[configs.nunique() > 1] if key not in SEEDS]


def _distinguishing(keys: Sequence[str], configs: pd.DataFrame) -> list[str]:
    """Return as few of the keys as tell the configs apart as all of them do.

    A group that was exchanged differs in its name and in what follows from it, so names are tried
    first.
    """
    chosen: list[str] = []
    count = 1
    for key in sorted(keys, key=lambda key: key.split(".")[-1] not in ("name", "system", "kind")):
        finer = len(configs[[*chosen, key]].drop_duplicates())
        if finer > count:
            chosen, count = [*chosen, key], finer
    return sorted(chosen, key=list(keys).index)


# Figures


def _figures(
    keys: Sequence[str], lines: Sequence[Line], columns: Mapping[str, Column]
) -> pd.DataFrame:
    """Return ``Report.figures``."""
    records = []
    for line in lines:
        unfinished = tuple(run.name for run in line.runs if run.results is None)
        for title, column in columns.items():
            runs = [run for run in line.runs if run.value(column.tag) is not None]
            records.append(
                {
                    **dict(zip(keys, line.cells, strict=True)),
                    "measure": column.tag,
                    "unit": column.unit,
                    "paper": math.nan if line.row is None else line.row.paper.get(title, math.nan),
                    "n": len(runs),
                    "values": tuple(run.figure(column) for run in runs),
                    "seeds": tuple(run.seed for run in runs),
                    "runs": tuple(run.name for run in runs),
                    "unfinished": unfinished,
                }
            )
    index = pd.MultiIndex.from_product([range(len(lines)), columns], names=["line", "title"])
    figures = pd.DataFrame(records, index=index, columns=[*keys, *FIGURES])
    ours = figures["values"].explode().astype(float).groupby(level=["line", "title"])
    figures["ours"], figures["std"] = ours.mean(), ours.std()
    figures["difference"] = figures["ours"] - figures["paper"]
    return figures


def _data_name(config: Mapping[str, Any]) -> str:
    """Return the name of a data set, its folder's or that of its class."""
    data = config.get("data") or {}
    name = data.get("name") or Path(str(data.get("root") or "")).name
    source = str(data.get("_target_", "")).rpartition(".")[2].removesuffix("Source").lower()
    return str(name or source or config.get("name", "unknown data"))


def _context(runs: Sequence[Run]) -> str:
    """Return on what data, with what backbone, how long and with what seeds runs were trained."""
    configs = [run.config for run in runs if run.config]
    if not configs:
        return "nothing but empty folders"
    flat = pd.DataFrame([run.flat_config() for run in runs if run.config]).fillna("null")
    name, backbone, seed = (
        ", ".join(flat[key].unique()) if key in flat else "null"
        for key in ("name", "backbone.name", "seed")
    )
    steps = [value for run in runs if (value := run.value("steps")) is not None]
    ends = dict.fromkeys(f"{end:.0f}" for end in (min(steps), max(steps))) if steps else ["no"]
    only_tested = all(config.get("task") == "test" for config in configs)
    length = "tested only" if only_tested else f"{' to '.join(ends)} steps"
    return f"{name}; {backbone}; {length}; seed {seed}"


# Warnings


def _warnings(
    lines: Sequence[Line],
    unmatched: Sequence[Run],
    others: Sequence[str],
    columns: Mapping[str, Column],
) -> Iterator[str]:
    """Name the runs and rows that the table lacks, and why, and what limits the comparison."""
    idle = [line.name for line in lines if not line.runs]
    if idle:
        yield f"No job of these rows was started: {'; '.join(idle)}."
    for line in lines:
        for run in line.runs:
            lacking = [column.tag for column in columns.values() if run.value(column.tag) is None]
            if run.results is None:
                yield f"Not finished: {run.name} ({line.name}, seed {run.seed}): {run.fault}."
            elif lacking:
                yield f"{run.name} is finished, but without a value of {', '.join(lacking)}."
        for seed, times in Counter(run.seed for run in line.finished).items():
            if times > 1:
                names = ", ".join(run.name for run in line.finished if run.seed == seed)
                yield f"{names} are {times} runs of the same config and seed {seed}."
    wanted = dict.fromkeys(key for line in lines if line.row for key in line.row.where)
    for run in unmatched:
        flat = run.flat_config()
        has = ", ".join(f"{key}={flat.get(key, 'null')}" for key in wanted) if run.config else ""
        found = [
            f"{column.heading(title)} {column.text(run.figure(column))}"
            for title, column in columns.items()
        ]
        state = f"not finished: {run.fault}" if run.results is None else ", ".join(found)
        yield f"In no row of the table: {run.name} ({has or 'no config.yaml'}), {state}."
    if others:
        yield f"These keys differ along with those named: {', '.join(others)}."
    finished = [run for line in lines for run in line.finished]
    by_weights: dict[str, list[str]] = {}
    for run in finished:
        by_weights.setdefault(str((run.results or {}).get("weights")), []).append(run.name)
    if len(by_weights) > 1:
        listed = "; ".join(f"{name} ({', '.join(runs)})" for name, runs in by_weights.items())
        yield f"The backbones do not all start from the same weights: {listed}."
    notes = Counter(note for run in finished for note in (run.results or {}).get("notes", []))
    shared = {note: n for note, n in notes.items() if n > 1 or len(finished) == 1}
    for note, n in shared.items():
        yield note if n == len(finished) else f"{note} ({n} of {len(finished)} runs)"
    if len(notes) > len(shared):
        yield f"{len(notes) - len(shared)} notes of single runs are in their metrics.json."
