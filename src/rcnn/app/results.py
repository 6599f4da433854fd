"""The figures of a finished run, and the table that shows them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

HEADLINES = {
    "map": "mAP@[.5:.95]",
    "map_50": "mAP@.5",
    "map_75": "mAP@.75",
    "voc_map": "VOC mAP (area)",
    "voc07_map": "VOC07 mAP (11-point)",
    "recall_100": "proposal recall, 100",
    "recall_300": "proposal recall, 300",
    "recall_1000": "proposal recall, 1000",
}


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
    """Print one table: a row for all classes and one for each, then the run's folder."""
    console = console or Console()
    split = "test" if any(tag.startswith("test/") for tag in results.metrics) else "val"
    table = Table(title=f"{split} split", title_justify="left")
    table.add_column("metric")
    table.add_column("all classes", justify="right", style="bold")
    classes = results.per_class.get(split, {})
    for name in classes:
        table.add_column(name, justify="right")
    columns = {"map": "map", "map_50": "map_50", "voc_map": "voc_ap", "voc07_map": "voc07_ap"}
    for key, title in HEADLINES.items():
        value = results.metrics.get(f"{split}/{key}")
        if value is not None:
            cells = [
                _figure(row[columns[key]]) if key in columns else "" for row in classes.values()
            ]
            table.add_row(title, _figure(value), *cells)
    console.print(table)
    if results.steps:
        console.print(f"{results.steps} steps in {results.seconds:.0f} s")
    for note in results.notes:
        console.print(f"[yellow]{note}[/]")
    console.print(f"Run folder: {run_dir}", soft_wrap=True, highlight=False)


def _figure(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"
