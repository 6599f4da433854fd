"""A report as text for a terminal and a file, and as CSV."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rcnn.files import whole_file
from rcnn.report.tables import Report

WIDTH = 100
"""Characters of a line of the report, at most."""


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
    if report.plan:
        parts += [Text(report.plan.title, style="bold"), Text(f"Paper: {report.plan.source}")]
    parts += [Text(f"{'Ours: ' if report.plan else 'Runs:'} {report.context}"), _table(report)]
    if report.figures["std"].notna().any():
        parts.append(Text("±: sample standard deviation over the n seeds", style="dim"))
    elif report.figures["ours"].notna().any():
        parts.append(Text("One seed a row: the spread is unknown.", style="dim"))
    if report.warnings:
        parts += [Text(), *(Text(f"- {warning}") for warning in report.warnings)]
    return Group(*parts)


def _table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    add_column = partial(table.add_column, vertical="bottom", overflow="fold")
    for k, key in enumerate(report.keys):
        short = all(len(line.cells[k]) <= 24 for line in report.lines)
        # A long key is broken behind its group, not in the middle of a word.
        add_column(Text(key.replace(".", ".\n", 1)), no_wrap=short)
    by_title = report.figures.groupby("title", sort=False)
    compared = set(report.figures.index[report.figures["paper"].notna()].get_level_values("title"))
    # The greatest mean, of the measures of which more is better.
    best = by_title["ours"].max()[by_title["ours"].count() > 1]
    for title, column in report.columns.items():
        heads, ours = [column.heading(title)], f"ours,\n{report.our_data}"
        if report.plan and title in compared:
            heads = [f"{heads[0]}\npaper,\n{report.plan.data}", ours]
            heads += ["diff."] * (column.unit == "%")
        elif report.plan:
            heads = [f"{heads[0]}\n{ours}"]
        for head in heads:  # broken at every space: the figures need the width
            add_column(Text(head.replace(" ", "\n")), justify="right")
    add_column("n", justify="right")
    rows = iter(report.figures[["paper", "ours", "difference", "std"]].to_numpy(float).tolist())
    sections = [line.section for line in report.lines]
    for line, following in zip(report.lines, [*sections[1:], *sections[-1:]], strict=True):
        cells = [Text(cell) for cell in line.cells]
        for title, column in report.columns.items():
            paper, mean, difference, std = next(rows)
            if title in compared:
                cells.append(Text(column.text(paper)))
            is_best = column.unit == "%" and mean == best.get(title)
            cells.append(Text(column.text(mean, std), style="bold" if is_best else ""))
            if title in compared and column.unit == "%":
                cells.append(Text("-" if math.isnan(difference) else f"{difference:+.1f}"))
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
