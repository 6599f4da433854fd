"""What a reader of the table has to know beside it; no run is left out in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rcnn.report.differences import flatten, spelled
from rcnn.report.figures import measure, spelled_figure
from rcnn.report.grouping import Group, Grouping
from rcnn.report.plan import Column
from rcnn.report.runs import Run


def remarks_on(grouping: Grouping, columns: Sequence[Column]) -> Iterator[str]:
    """Name what is missing in the table, and why."""
    idle = [group.name for group in grouping.groups if not group.runs]
    if idle:
        yield f"No job of these rows was started: {'; '.join(idle)}."
    for group in grouping.groups:
        yield from _on_group(group, columns)
    yield from _on_strays(grouping, columns)
    if grouping.along:
        yield f"These keys differ along with those named: {', '.join(grouping.along)}."
    yield from _on_weights(grouping)
    yield from _notes(grouping)


def _on_group(group: Group, columns: Sequence[Column]) -> Iterator[str]:
    for run in group.runs:
        if run.results is None:
            yield f"Not finished: {run.name} ({group.name}, seed {run.seed}): {run.fault}."
    finished = [run for run in group.runs if run.results is not None]
    for run in finished:
        lacking = [column.tag for column in columns if run.value(column.tag) is None]
        if lacking:
            yield f"{run.name} is finished, but without a value of {', '.join(lacking)}."
    seeds = Counter(str(run.seed) for run in finished)
    for seed, times in seeds.items():
        if times > 1:
            names = ", ".join(run.name for run in finished if str(run.seed) == seed)
            yield f"{names} are {times} runs of the same config and seed {seed}."


def _on_strays(grouping: Grouping, columns: Sequence[Column]) -> Iterator[str]:
    rows = [group.row for group in grouping.groups if group.row is not None]
    wanted = list(dict.fromkeys(key for row in rows for key in row.where))
    for run in grouping.strays:
        cells = zip(wanted, spelled(wanted, flatten(run)), strict=True)
        has = ", ".join(f"{key}={cell}" for key, cell in cells) if run.config else ""
        found = [f"{c.heading} {spelled_figure(measure([run], c), c.unit)}" for c in columns]
        state = f"not finished: {run.fault}" if run.results is None else ", ".join(found)
        yield f"In no row of the table: {run.name} ({has or 'no config.yaml'}), {state}."


def _on_weights(grouping: Grouping) -> Iterator[str]:
    """Tell if some runs found the backbone's weights and others did not."""
    starts: dict[str, list[str]] = {}
    for run in _finished(grouping):
        starts.setdefault(str((run.results or {}).get("weights")), []).append(run.name)
    if len(starts) > 1:
        told = "; ".join(f"{weights} ({', '.join(names)})" for weights, names in starts.items())
        yield f"The backbones do not all start from the same weights: {told}."


def _notes(grouping: Grouping) -> Iterator[str]:
    """Hand on what several runs remarked themselves, and say that there is more."""
    runs = _finished(grouping)
    notes = Counter(note for run in runs for note in (run.results or {}).get("notes", []))
    shared = {note: times for note, times in notes.items() if times > 1 or len(runs) == 1}
    for note, times in shared.items():
        yield note if times == len(runs) else f"{note} ({times} of {len(runs)} runs)"
    if len(notes) > len(shared):
        yield f"{len(notes) - len(shared)} notes of single runs stand in their metrics.json."


def _finished(grouping: Grouping) -> list[Run]:
    return [run for group in grouping.groups for run in group.runs if run.results is not None]
