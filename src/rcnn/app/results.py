"""The figures of a finished run, and the table that shows them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from rcnn.view.scores import recall_line, score_table


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
        seconds: of training, with its validations, from the first run on if it was resumed; of a
            training in steps, of all steps and the proposals between them, also of those stored.
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
    console.print(score_table(results.metrics, results.per_class.get(split, {}), split))
    console.print(recall_line(results.metrics, split), highlight=False)
    if results.steps:
        console.print(f"{results.steps} steps in {results.seconds:.0f} s", highlight=False)
    for note in results.notes:
        console.print(f"[yellow]{escape(note)}[/]", soft_wrap=True, highlight=False)
    console.print(f"Run folder: {run_dir}", soft_wrap=True, highlight=False)
