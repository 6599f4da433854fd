"""The table of a report: figures of a paper beside ours, over the seeds of every row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rcnn.files import whole_file
from rcnn.report.runs import FACTORS, Column, Plan, ReportError, Row, Run, Unit
from rcnn.settings import nearest

MEASURES = ("map", "map_50", "voc07_map")
"""The measures, beside the seconds of training, of runs without the definition of a table."""

SEEDS = ("seed", "loader.seed")
"""Runs that differ in these keys alone are repetitions of one another."""

WIDTH = 100
"""Characters of a line of the report, at most."""


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
        title: what is compared; empty without a plan.
        source: source of the paper's figures; empty without a plan.
        context: data, backbone, length and seeds of our runs.
        paper_data: data set of the paper's figures.
        our_data: data set of ours.
        keys: names of the cells of the lines: config keys, then "row" where there is a plan.
        columns: the measures by title.
        lines: the lines from top to bottom.
        figures: a row for each line and measure, indexed by the line's number and the measure's
            title: the keys, ``measure`` (its tag), ``unit``, ``paper``, ``ours`` (mean),
            ``difference``, ``std`` (sample standard deviation), ``n``, ``values``, ``seeds``,
            ``runs`` (tuples of length n) and ``unfinished`` (names). NaN is unknown.
        warnings: runs that are missing in the table and why, and what limits the comparison.
    """

    title: str
    source: str
    context: str
    paper_data: str
    our_data: str
    keys: tuple[str, ...]
    columns: Mapping[str, Column]
    lines: tuple[Line, ...]
    figures: pd.DataFrame
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
    configs = [run.config for run in runs if run.config]
    return Report(
        title="" if plan is None else plan.title,
        source="" if plan is None else plan.source,
        context=_context(runs),
        paper_data="" if plan is None else plan.data,
        our_data=" / ".join(dict.fromkeys(_data_name(config) for config in configs)),
        keys=keys,
        columns=columns,
        lines=lines,
        figures=_figures(keys, lines, columns),
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


def varying_keys(configs: pd.DataFrame) -> list[str]:
    """Return the keys, other than seeds, that do not have the same value in all configs."""
    differ = configs.columns[configs.nunique() > 1]
    return [key for key in differ if key not in SEEDS]


def distinguishing_keys(keys: Sequence[str], configs: pd.DataFrame) -> list[str]:
    """Return few of ``keys`` that distinguish as many configs as all of them do.

    A choice of a config group changes many keys at once; its name says it best, so names are tried
    first.
    """
    chosen: list[str] = []
    for key in sorted(keys, key=lambda key: key.split(".")[-1] not in ("name", "system", "kind")):
        if len(configs[[*chosen, key]].drop_duplicates()) > (
            len(configs[chosen].drop_duplicates()) if chosen else 1
        ):
            chosen.append(key)
    return sorted(chosen, key=list(keys).index)


def _group(
    runs: Sequence[Run], plan: Plan | None
) -> tuple[tuple[str, ...], tuple[Line, ...], list[Run], list[str]]:
    """Return keys, lines, the runs in no line, and the differing keys that are not among the keys.

    With a plan every combination of the keys has all rows; runs of one row are never averaged if
    they differ in more than their seeds, nor are runs on different data in one table.
    """
    labels = [_label(run, plan) for run in runs]
    matched = [(run, label) for run, label in zip(runs, labels, strict=True) if label is not None]
    unmatched = [run for run, label in zip(runs, labels, strict=True) if label is None]
    members, rows = [run for run, _ in matched], [label for _, label in matched]
    configs = pd.DataFrame([run.flat_config() for run in members], index=range(len(members)))
    configs = configs.fillna("null")

    differing = {key for _, of_row in configs.groupby(rows) for key in varying_keys(of_row)}
    differing |= {key for key in varying_keys(configs) if key.startswith("data.")}
    ordered = [key for key in configs.columns if key in differing]
    named = distinguishing_keys(ordered, configs)
    others = [key for key in ordered if key not in named]
    are_repetitions = len({run.seed for run in members}) == len(members) > 1
    if plan is None and not named and not are_repetitions:
        # Nothing but their folders distinguishes these runs.
        configs, named = configs.assign(run=[run.name for run in members]), ["run"]

    kinds = [tuple(values) for values in configs[named].to_numpy().tolist()]
    by_line: dict[tuple[tuple[str, ...], str], list[Run]] = {}
    for kind, (run, label) in zip(kinds, matched, strict=True):
        by_line.setdefault((kind, label), []).append(run)
    sections = list(dict.fromkeys(kinds))
    if plan is None:
        cells = [tuple(map(_short, named, kind)) or ("all",) for kind in sections]
        groups = [tuple(by_line[kind, ""]) for kind in sections]
        lines = [Line(each, 0, None, group) for each, group in zip(cells, groups, strict=True)]
        return tuple(named) or ("row",), tuple(lines), unmatched, others
    lines = [
        Line(
            (*map(_short, named, kind), row.label),
            n,
            row,
            tuple(by_line.get((kind, row.label), ())),
        )
        for n, kind in enumerate(sections or [()])
        for row in plan.rows
    ]
    return (*named, "row"), tuple(lines), unmatched, others


def _label(run: Run, plan: Plan | None) -> str | None:
    """Return the label of a run's row, ``""`` without a plan, None where it belongs to no row."""
    if plan is None:
        return "" if run.config else None
    # Its own plan: the values of a row may depend on the run's data. A run that was started without
    # a plan is compared with the rows of the others.
    row = (run.plan() or plan).row_of(run.config)
    return row.label if row is not None and row.label in {r.label for r in plan.rows} else None


def _short(key: str, value: str) -> str:
    return value.rpartition(".")[2] if key.endswith("_target_") else value


# Figures


def _figures(
    keys: Sequence[str], lines: Sequence[Line], columns: Mapping[str, Column]
) -> pd.DataFrame:
    """Return ``Report.figures``."""
    index = pd.MultiIndex.from_product([range(len(lines)), columns], names=["line", "title"])
    measured = pd.DataFrame(
        [
            (number, title, run.name, run.seed, _measure(run, column))
            for number, line in enumerate(lines)
            for title, column in columns.items()
            for run in line.runs
            if run.value(column.tag) is not None
        ],
        columns=["line", "title", "runs", "seeds", "values"],
    ).astype({"values": float})
    groups = measured.groupby(["line", "title"])
    ours = groups["values"].agg(ours="mean", std="std", n="count").reindex(index)
    listed = groups[["values", "seeds", "runs"]].agg(tuple).reindex(index)
    pairs = [(line, title) for line in lines for title in columns]
    figures = pd.DataFrame([line.cells for line, _ in pairs], index=index, columns=[*keys])
    figures["measure"] = [columns[title].tag for _, title in pairs]
    figures["unit"] = [columns[title].unit for _, title in pairs]
    paper = [line.row.paper.get(title) if line.row else None for line, title in pairs]
    figures["paper"] = pd.Series(paper, index, dtype=float)
    figures["ours"] = ours["ours"]
    figures["difference"] = figures["ours"] - figures["paper"]
    figures["std"], figures["n"] = ours["std"], ours["n"].fillna(0).astype(int)
    for name in listed:
        figures[name] = [items if isinstance(items, tuple) else () for items in listed[name]]
    unfinished = [tuple(run.name for run in line.runs if run.results is None) for line in lines]
    figures["unfinished"] = [unfinished[number] for number, _ in index]
    return figures


def _measure(run: Run, column: Column) -> float:
    """Return the value of a run in the unit of the column, NaN if it has none."""
    value = run.value(column.tag)
    return math.nan if value is None else FACTORS[column.unit] * value


def written(value: float, unit: Unit) -> str:
    """Return a figure with the digits that it is worth; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:,.{_decimals(value, unit)}f}"


def with_spread(mean: float, std: float, unit: Unit) -> str:
    """Return a mean and, with as many decimals, its standard deviation unless it is NaN."""
    if math.isnan(std):
        return written(mean, unit)
    return f"{written(mean, unit)}±{std:,.{_decimals(mean, unit)}f}"


def heading(title: str, column: Column) -> str:
    """Return the title of a column with its unit."""
    return f"{title} ({column.unit})" if column.unit else title


def _decimals(value: float, unit: Unit) -> int:
    """Return one decimal for a percentage, else three significant digits, from 100 on none."""
    if unit == "%":
        return 1
    return next((n for n, least in ((0, 100), (1, 10), (2, 1)) if abs(value) >= least), 3)


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
        values = {title: _measure(run, column) for title, column in columns.items()}
        found = [
            f"{heading(title, columns[title])} {written(value, columns[title].unit)}"
            for title, value in values.items()
        ]
        state = f"not finished: {run.fault}" if run.results is None else ", ".join(found)
        yield f"In no row of the table: {run.name} ({has or 'no config.yaml'}), {state}."
    if others:
        yield f"These keys differ along with those named: {', '.join(others)}."
    finished = [run for line in lines for run in line.finished]
    starts = [str((run.results or {}).get("weights")) for run in finished]
    if len(set(starts)) > 1:
        by_weights = pd.Series([run.name for run in finished]).groupby(starts, sort=False)
        listed = "; ".join(f"{name} ({', '.join(members)})" for name, members in by_weights)
        yield f"The backbones do not all start from the same weights: {listed}."
    notes = Counter(note for run in finished for note in (run.results or {}).get("notes", []))
    shared = {note: n for note, n in notes.items() if n > 1 or len(finished) == 1}
    for note, n in shared.items():
        yield note if n == len(finished) else f"{note} ({n} of {len(finished)} runs)"
    if len(notes) > len(shared):
        yield f"{len(notes) - len(shared)} notes of single runs are in their metrics.json."


# Output


def as_csv(report: Report) -> str:
    """Return the figures as CSV, each in the unit of its line; what is unknown is empty."""
    lists = ["values", "seeds", "runs", "unfinished"]
    joined = {name: report.figures[name].map(lambda v: " ".join(map(str, v))) for name in lists}
    return report.figures.assign(**joined).to_csv(index=False, lineterminator="\n")


def as_text(report: Report) -> str:
    """Return the report as plain text."""
    console = Console(width=WIDTH, no_color=True, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(rendered(report))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def rendered(report: Report) -> RenderableType:
    """Return the report as rich prints it."""
    parts: list[RenderableType] = []
    if report.title:
        parts += [Text(report.title, style="bold"), Text(f"Paper: {report.source}")]
    parts += [Text(f"{'Ours: ' if report.title else 'Runs:'} {report.context}"), _table(report)]
    if report.figures["std"].notna().any():
        parts.append(Text("±: sample standard deviation over the n seeds", style="dim"))
    elif report.figures["ours"].notna().any():
        parts.append(Text("One seed a row: the spread is unknown.", style="dim"))
    if report.warnings:
        parts += [Text(), *(Text(f"- {warning}") for warning in report.warnings)]
    return Group(*parts)


def _table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for k, key in enumerate(report.keys):
        short = all(len(line.cells[k]) <= 24 for line in report.lines)
        # A long key is broken behind its group, not in the middle of a word.
        head = Text(key.replace(".", ".\n", 1))
        table.add_column(head, vertical="bottom", overflow="fold", no_wrap=short)
    by_title = report.figures.groupby("title", sort=False)
    compared = set(report.figures.index[report.figures["paper"].notna()].get_level_values("title"))
    # The greatest mean, of the measures of which more is better.
    best = by_title["ours"].max()[by_title["ours"].count() > 1]
    for title, column in report.columns.items():
        heads, ours = [heading(title, column)], f"ours,\n{report.our_data}"
        if title in compared:
            heads = [f"{heads[0]}\npaper,\n{report.paper_data}", ours]
            heads += ["diff."] * (column.unit == "%")
        elif report.title:
            heads = [f"{heads[0]}\n{ours}"]
        for text in heads:  # broken at every space: the figures need the width
            head = Text(text.replace(" ", "\n"))
            table.add_column(head, justify="right", vertical="bottom", overflow="fold")
    table.add_column("n", justify="right", vertical="bottom", overflow="fold")
    numbers = report.figures[["paper", "ours", "difference", "std"]].to_numpy(dtype=float)
    row_of = iter(numbers.tolist())
    sections = [line.section for line in report.lines]
    for line, following in zip(report.lines, [*sections[1:], *sections[-1:]], strict=True):
        cells = [Text(cell) for cell in line.cells]
        for title, column in report.columns.items():
            paper, mean, difference, std = next(row_of)
            figure = Text(with_spread(mean, std, column.unit))
            if column.unit == "%" and mean == best.get(title):
                figure.stylize("bold")
            if title in compared:
                cells += [Text(written(paper, column.unit)), figure]
                if column.unit == "%":
                    cells.append(Text("-" if math.isnan(difference) else f"{difference:+.1f}"))
            else:
                cells.append(figure)
        finished, started = len(line.finished), len(line.runs)
        cells.append(Text(str(finished) if finished == started else f"{finished}/{started}"))
        table.add_row(*cells, end_section=following != line.section)
    return table


def write_report(report: Report, folder: Path, picture: bytes | None = None) -> list[Path]:
    """Write ``report.txt``, ``report.csv`` and, if given, the picture as ``report.png``.

    Returns:
        The files written.
    """
    contents = {"report.txt": as_text(report).encode(), "report.csv": as_csv(report).encode()}
    if picture is not None:
        contents["report.png"] = picture
    for name, content in contents.items():
        with whole_file(folder / name) as partial:
            partial.write_bytes(content)
    return [folder / name for name in contents]
