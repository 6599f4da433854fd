"""The figures of a finished run, and the table that shows them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

COLUMNS = {
    "map": ("mAP@[.5:.95]", "map"),
    "map_50": ("mAP@.5", "map_50"),
    "voc_map": ("VOC mAP", "voc_ap"),
    "voc07_map": ("VOC07 mAP", "voc07_ap"),
}
"""Of the table: the metric's name, its title, and its name among a class's figures."""

RECALLS = ("recall_100", "recall_300", "recall_1000")


@dataclass(frozen=True)
class Results:
    """What a run measured.

    Attributes:
        metrics: by tag, such as ``test/map_50``.
        per_class: average precisions of each class, by split.
        weights: where the backbone's weights came from.
        best_checkpoint: chosen on the validation split; None if none was written.
        monitored: the value of the metric that chose it.
        steps: optimiser steps.
        seconds: of training, with validation.
        notes: what a reader of the figures has to know.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, dict[str, float]]]
    weights: str
    best_checkpoint: str | None = None
    monitored: float | None = None
    steps: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return the figures as nested dictionaries, for ``metrics.json``."""
        return asdict(self)


def print_results(results: Results, run_dir: str, console: Console | None = None) -> None:
    """Print one table, a row for all classes and one for each, then the run's folder."""
    console = console or Console()
    split = "test" if any(tag.startswith("test/") for tag in results.metrics) else "val"
    table = Table(title=f"{split} split", title_justify="left")
    table.add_column("class")
    for title, _ in COLUMNS.values():
        table.add_column(title, justify="right")
    overall = [_figure(results.metrics.get(f"{split}/{name}", math.nan)) for name in COLUMNS]
    table.add_row("all", *overall, style="bold", end_section=True)
    for name, figures in results.per_class.get(split, {}).items():
        table.add_row(name, *(_figure(figures[key]) for _, key in COLUMNS.values()))
    console.print(table)

    recalls = [results.metrics.get(f"{split}/{name}", math.nan) for name in RECALLS]
    console.print(
        f"proposal recall at 100, 300, 1000: {', '.join(map(_figure, recalls))}", highlight=False
    )
    if results.steps:
        console.print(f"{results.steps} steps in {results.seconds:.0f} s", highlight=False)
    for note in results.notes:
        console.print(f"[yellow]{escape(note)}[/]", soft_wrap=True, highlight=False)
    console.print(f"Run folder: {run_dir}", soft_wrap=True, highlight=False)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
