"""From runs to a report: the lines, what they show, and what a reader has to know beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rcnn.report.claims import Verdict, judge
from rcnn.report.differences import flatten, spelled
from rcnn.report.figures import Figure, column_of, measure
from rcnn.report.grouping import Group, Grouping, group_by_differences, group_by_plan, plan_of
from rcnn.report.plan import Column, Plan
from rcnn.report.remarks import remarks_on
from rcnn.report.runs import ReportError, Run
from rcnn.settings import nearest

MEASURES = ("map", "map_50", "voc07_map")
"""What is shown where no plan says it, and the seconds of training."""


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        cells: what tells it from the others.
        paper: its figure for each column; None where there is none.
        ours: likewise.
        runs: finished or not.
        ends_table: a line of another table follows.
    """

    cells: tuple[str, ...]
    paper: tuple[float | None, ...]
    ours: tuple[Figure, ...]
    runs: tuple[Run, ...]
    ends_table: bool = False

    @property
    def finished(self) -> int:
        """The number of runs that came to their end."""
        return sum(run.results is not None for run in self.runs)


@dataclass(frozen=True)
class Report:
    """All that is told.

    Attributes:
        title: of the table; empty without a plan.
        source: of the paper's figures; empty without a plan.
        ours: of ours, in words.
        titles: of the cells of the lines.
        columns: the measures.
        lines: of the table.
        verdicts: on the claims of the plan.
        remarks: jobs that are missing in the table, and why; what else has to be known.
    """

    title: str
    source: str
    ours: str
    titles: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    verdicts: tuple[Verdict, ...]
    remarks: tuple[str, ...]


def compare(runs: Sequence[Run], tags: Sequence[str] = ()) -> Report:
    """Compare runs: by the plan of their sweep, or by the keys in which they differ.

    Args:
        runs: finished or not.
        tags: the measures to show; by default the plan's, or the common ones.

    Raises:
        ReportError: no run has such a measure, or the runs belong to different tables.
    """
    plan = plan_of(runs)
    grouping = group_by_differences(runs) if plan is None else group_by_plan(runs, plan)
    columns = _columns(runs, tags, plan)
    verdicts, unjudged = ([], []) if plan is None else _verdicts(plan, columns, grouping)
    return Report(
        title="" if plan is None else plan.title,
        source="" if plan is None else plan.source,
        ours=_context(runs),
        titles=grouping.titles,
        columns=columns,
        lines=tuple(_lines(grouping.groups, columns)),
        verdicts=tuple(verdicts),
        remarks=(*remarks_on(grouping, columns), *unjudged),
    )


def _columns(runs: Sequence[Run], tags: Sequence[str], plan: Plan | None) -> tuple[Column, ...]:
    measured = list(dict.fromkeys(tag for run in runs for tag in run.tags))
    for tag in tags:
        if measured and tag not in measured:
            raise ReportError(
                f"No run has measured {tag!r}{nearest(tag, measured)} "
                f"There are: {', '.join(sorted(measured))}."
            )
    planned = {} if plan is None else {column.tag: column for column in plan.columns}
    if tags:
        return tuple(planned.get(tag) or column_of(tag) for tag in tags)
    if plan is not None:
        return plan.columns
    for split in ("test", "val"):
        common = [tag for name in MEASURES if (tag := f"{split}/{name}") in measured]
        if common:
            return tuple(column_of(tag) for tag in (*common, "seconds"))
    return (column_of("test/map"),)


def _lines(groups: Sequence[Group], columns: Sequence[Column]) -> Iterable[Line]:
    settings = [group.setting for group in groups]
    for group, following in zip(groups, [*settings[1:], *settings[-1:]], strict=True):
        known = {} if group.row is None else group.row.paper
        yield Line(
            cells=group.cells,
            paper=tuple(known.get(column.title) for column in columns),
            ours=tuple(measure(group.runs, column) for column in columns),
            runs=group.runs,
            ends_table=following != group.setting,
        )


def _verdicts(
    plan: Plan, columns: Sequence[Column], grouping: Grouping
) -> tuple[list[Verdict], list[str]]:
    """Judge every claim in every table; return with the verdicts what could not be judged."""
    rows = {row.label: row for row in plan.rows}
    verdicts, unjudged = [], []
    for claim in plan.claims:
        theirs = next(c for c in plan.columns if claim.column in (None, c.title))
        ours = _stand_in(theirs, plan, columns)
        if ours is None:
            unjudged.append(f"Not judged, for want of {theirs.tag}: {claim.says}.")
            continue
        published = {
            label: Figure(tuple(row.paper[key] for key in row.paper if key == theirs.title))
            for label, row in rows.items()
        }
        by_paper = judge(claim, published)
        for setting in dict.fromkeys(group.setting for group in grouping.groups):
            measured = {
                group.row.label: measure(group.runs, ours)
                for group in grouping.groups
                if group.setting == setting and group.row is not None
            }
            verdicts.append(Verdict(claim, ours, setting, by_paper, judge(claim, measured)))
    return verdicts, unjudged


def _stand_in(theirs: Column, plan: Plan, columns: Sequence[Column]) -> Column | None:
    """Return the shown column by which a claim is judged.

    If other measures are asked for than the plan's, the first of them stands for its first.
    """
    if theirs in columns:
        return theirs
    replaced = theirs == plan.columns[0] and columns[0].unit == theirs.unit
    return columns[0] if replaced else None


def _context(runs: Sequence[Run]) -> str:
    """Say on what, with what and how long the runs were trained."""
    flats = [flatten(run) for run in runs if run.config]
    name, backbone, seed = (
        ", ".join(dict.fromkeys(spelled([key], flat)[0] for flat in flats))
        for key in ("name", "backbone.name", "seed")
    )
    steps = [value for run in runs if (value := run.value("steps")) is not None]
    ends = dict.fromkeys(f"{end:.0f}" for end in (min(steps), max(steps))) if steps else ["no"]
    only_tested = flats and all(flat.get("task") == "test" for flat in flats)
    length = "tested only" if only_tested else f"{' to '.join(ends)} steps"
    parts = [name, backbone, length, f"seed {seed}"]
    return "; ".join(parts) if flats else "nothing but empty folders"
