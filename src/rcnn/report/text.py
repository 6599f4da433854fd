"""A report for the terminal and for ``report.txt``."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rcnn.report.claims import Judgement, Verdict
from rcnn.report.comparison import Line, Report
from rcnn.report.figures import spelled_figure, written
from rcnn.report.plan import Column

WIDTH = 100
"""Of the report in characters, at most."""

SHORT = 24
"""Characters of a row's name that stay on one line."""

_STYLES = {True: "green", False: "red", None: "yellow"}
_WORDS = {True: "yes", False: "no", None: "open"}


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
    whose = "Ours:  " if report.title else "Runs: "
    parts += [Text(f"{whose}{report.ours}"), _table(report)]
    figures = [figure for line in report.lines for figure in line.ours if figure.values]
    if any(figure.spread is not None for figure in figures):
        parts.append(Text("±: sample standard deviation over the n seeds", style="dim"))
    elif figures:
        parts.append(Text("One seed a row: nothing is known of the spread.", style="dim"))
    if report.verdicts:
        parts += [Text(), _pattern(report.verdicts)]
    if report.remarks:
        parts += [Text(), *(Text(f"- {remark}") for remark in report.remarks)]
    return Group(*parts)


def _table(report: Report) -> Table:
    table = _empty_table()
    for k, title in enumerate(report.titles):
        # A long key is broken behind its group, not in the middle of a word.
        short = all(len(line.cells[k]) <= SHORT for line in report.lines)
        heading = Text(title.replace(".", ".\n", 1))
        table.add_column(heading, vertical="bottom", overflow="fold", no_wrap=short)
    shown = [(column, _has_paper(report, k)) for k, column in enumerate(report.columns)]
    for column, has_paper in shown:
        heads = [f"{column.heading}\npaper", "ours", "diff."] if has_paper else [column.heading]
        for head in heads if column.unit == "%" else heads[:2]:
            table.add_column(Text(head), justify="right", vertical="bottom", overflow="fold")
    table.add_column("n", justify="right", vertical="bottom", overflow="fold")
    best = [_best(report, k) for k in range(len(report.columns))]
    for line in report.lines:
        cells = [Text(cell) for cell in line.cells]
        for k, (column, has_paper) in enumerate(shown):
            ours = Text(spelled_figure(line.ours[k], column.unit))
            if line.ours[k].mean is not None and line.ours[k].mean == best[k]:
                ours.stylize("bold")
            cells += _against_paper(line, k, column, ours) if has_paper else [ours]
        started, finished = len(line.runs), line.finished
        cells.append(Text(str(finished) if finished == started else f"{finished}/{started}"))
        table.add_row(*cells, end_section=line.ends_table)
    return table


def _empty_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))


def _against_paper(line: Line, k: int, column: Column, ours: Text) -> list[Text]:
    cells = [Text(written(line.paper[k], column.unit)), ours]
    if column.unit == "%":
        cells.append(Text(_difference(line.ours[k].mean, line.paper[k])))
    return cells


def _pattern(verdicts: tuple[Verdict, ...]) -> Table:
    table = _empty_table()
    table.add_column("pattern")
    table.add_column("paper", no_wrap=True)
    table.add_column("ours", min_width=24)
    for verdict in verdicts:
        says = verdict.claim.says
        table.add_row(
            Text(f"{says} [{verdict.setting}]" if verdict.setting else says),
            _judged(verdict.paper, verdict),
            _judged(verdict.ours, verdict),
        )
    return table


def _judged(judgement: Judgement, verdict: Verdict) -> Text:
    unit = verdict.column.unit
    word = Text(f"{_WORDS[judgement.holds]:<5}", style=f"bold {_STYLES[judgement.holds]}")
    if judgement.holds is None:
        return word + Text(f"no figure: {', '.join(judgement.missing)}")
    sign = "<" if not judgement.holds else "≥"
    allowance = f" - {verdict.claim.within:g}" if verdict.claim.within else ""
    factor = f"{verdict.claim.times:g} x " if verdict.claim.times != 1 else ""
    less = f"{factor}{written(judgement.less, unit)}{allowance}"
    figures = f"{written(judgement.more, unit)} {sign} {less}"
    return word + Text(figures + " (within the spread)" * judgement.in_spread)


def _difference(ours: float | None, paper: float | None) -> str:
    return "-" if ours is None or paper is None else f"{ours - paper:+.1f}"


def _has_paper(report: Report, k: int) -> bool:
    return any(line.paper[k] is not None for line in report.lines)


def _best(report: Report, k: int) -> float | None:
    """Return the greatest mean of a column of which more is better."""
    means = [mean for line in report.lines if (mean := line.ours[k].mean) is not None]
    return max(means) if len(means) > 1 and report.columns[k].unit == "%" else None
