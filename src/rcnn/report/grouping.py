"""Which runs stand in one line of a table: those that differ in their seeds alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rcnn.report.differences import Flat, flatten, spelled, telling, values, varying
from rcnn.report.node import read_plan
from rcnn.report.plan import Plan, Row
from rcnn.report.runs import ReportError, Run
from rcnn.settings import SettingsError


@dataclass(frozen=True)
class Group:
    """The runs of one line; none where a row has not been run.

    Attributes:
        cells: what tells the line from the others, one text for each title of the grouping.
        row: of the plan; None without one.
        setting: the keys and values that tell several tables of one plan apart; often empty.
        runs: finished or not.
    """

    cells: tuple[str, ...]
    row: Row | None
    setting: str
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The cells as one text."""
        return " / ".join(self.cells)


@dataclass(frozen=True)
class Grouping:
    """All lines.

    Attributes:
        titles: of the cells of the groups.
        groups: in the order of the plan, or of the runs.
        strays: runs that belong to no row of the plan.
        along: keys that differ too, though the titles tell all lines apart without them.
    """

    titles: tuple[str, ...]
    groups: tuple[Group, ...]
    strays: tuple[Run, ...]
    along: tuple[str, ...]


def plan_of(runs: Sequence[Run]) -> Plan | None:
    """Return the plan that the runs carry; None if none of them does.

    Raises:
        ReportError: they carry different ones, or one that is not sound.
    """
    plans: dict[str, Plan] = {}
    for run in runs:
        if run.config.get("sweep") is not None:
            plan = _plan(run)
            plans.setdefault(plan.title, plan)
    if len(plans) > 1:
        raise ReportError(
            f"These folders hold {len(plans)} different tables: {', '.join(map(repr, plans))}. "
            "Report on one at a time."
        )
    return next(iter(plans.values()), None)


def group_by_plan(runs: Sequence[Run], plan: Plan) -> Grouping:
    """Put each run into its row; where runs of one row differ, one table for each kind."""
    labels = {row.label: row for row in plan.rows}
    rows: dict[str, list[Run]] = {label: [] for label in labels}
    strays: list[Run] = []
    for run in runs:
        # Its own plan: what the rows ask for may depend on the run's data. A run that was started
        # without one is taken into the table of the others.
        own = plan if run.config.get("sweep") is None else _plan(run)
        row = own.row_of(run.config)
        (rows[row.label] if row is not None and row.label in rows else strays).append(run)
    flats = [[flatten(run) for run in members] for members in rows.values()]
    everything = [flat for members in flats for flat in members]
    keys = _tables_differ_in(flats)
    named = telling(keys, everything)
    kinds = {values(named, flat): spelled(named, flat) for flat in everything} or {(): ()}
    groups = [
        Group(
            (*cells, label),
            labels[label],
            " ".join(f"{key}={cell}" for key, cell in zip(named, cells, strict=True)),
            tuple(r for r, f in zip(members, their, strict=True) if values(named, f) == kind),
        )
        for kind, cells in kinds.items()
        for (label, members), their in zip(rows.items(), flats, strict=True)
    ]
    return Grouping((*named, "row"), tuple(groups), tuple(strays), _others(keys, named))


def group_by_differences(runs: Sequence[Run]) -> Grouping:
    """Put runs together that differ in their seeds alone; name the others by their differences."""
    told = [run for run in runs if run.config]
    strays = tuple(run for run in runs if not run.config)
    flats = [flatten(run) for run in told]
    keys = varying(flats)
    named = telling(keys, flats)
    are_repetitions = len({str(run.seed) for run in told}) == len(told) > 1
    if not named and not are_repetitions:
        groups = tuple(Group((run.name,), None, "", (run,)) for run in told)
        return Grouping(("run",), groups, strays, ())
    members: dict[tuple[object, ...], list[Run]] = {}
    cells: dict[tuple[object, ...], tuple[str, ...]] = {}
    for run, flat in zip(told, flats, strict=True):
        kind = values(named, flat)
        members.setdefault(kind, []).append(run)
        cells[kind] = spelled(named, flat) or ("all",)
    groups = tuple(Group(cells[kind], None, "", tuple(members[kind])) for kind in members)
    return Grouping(tuple(named) or ("runs",), groups, strays, _others(keys, named))


def _plan(run: Run) -> Plan:
    try:
        return read_plan(run.config["sweep"])
    except SettingsError as error:
        raise ReportError(f"{run.folder / 'config.yaml'}: {error}") from None


def _tables_differ_in(rows: Sequence[Sequence[Flat]]) -> list[str]:
    """Return the keys in which runs of one row differ, and those of differing data.

    Rows differ from one another as the plan wants it, but figures on other data stand apart.
    """
    keys = [key for members in rows for key in varying(members)]
    everything = [flat for members in rows for flat in members]
    keys += [key for key in varying(everything) if key.startswith("data.")]
    return list(dict.fromkeys(keys))


def _others(keys: Sequence[str], named: Sequence[str]) -> tuple[str, ...]:
    return tuple(key for key in keys if key not in named)
