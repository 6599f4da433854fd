"""Average precisions as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

COLUMNS = {
    "map": ("mAP@[.5:.95]", "map"),
    "map_50": ("mAP@.5", "map_50"),
    "voc_map": ("VOC mAP", "voc_ap"),
    "voc07_map": ("VOC07 mAP", "voc07_ap"),
}
"""Title of each metric, and its key among the figures of a class."""

RECALLS = ("recall_100", "recall_300", "recall_1000")


def score_table(
    metrics: Mapping[str, float], per_class: Mapping[str, Mapping[str, float]], split: str
) -> Table:
    """Return a table with a row for all classes and one for each.

    Args:
        metrics: values in 0..1 by tag, such as ``test/map_50``.
        per_class: average precisions of each class, in 0..1, by class name.
        split: first part of the tags.
    """
    table = Table(title=f"{split} split", title_justify="left")
    table.add_column("class")
    for title, _ in COLUMNS.values():
        table.add_column(title, justify="right")
    overall = [figure(metrics.get(f"{split}/{name}", math.nan)) for name in COLUMNS]
    table.add_row("all", *overall, style="bold", end_section=True)
    for name, figures in per_class.items():
        # A class name is text: "bolt[m8]" holds no markup.
        table.add_row(Text(name), *(figure(figures[key]) for _, key in COLUMNS.values()))
    return table


def recall_line(metrics: Mapping[str, float], split: str) -> str:
    """Return the recall of the proposals in one line."""
    recalls = [metrics.get(f"{split}/{name}", math.nan) for name in RECALLS]
    return f"proposal recall at 100, 300, 1000: {', '.join(map(figure, recalls))}"


def figure(value: float) -> str:
    """Return a fraction with three decimals, or a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.3f}"
