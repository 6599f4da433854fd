"""A report as ``report.csv``: a line for each row and measure, for other programs."""

from __future__ import annotations

import csv
import io

from rcnn.report.comparison import Report


def as_csv(report: Report) -> str:
    """Return the table; what is not known is empty. Figures are in the unit of their line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measured = ("measure", "unit", "paper", "ours", "std", "n", "values", "seeds", "runs")
    writer.writerow([*report.titles, *measured, "unfinished"])
    for line in report.lines:
        unfinished = " ".join(run.name for run in line.runs if run.results is None)
        for column, paper, ours in zip(report.columns, line.paper, line.ours, strict=True):
            counted = [run for run in line.runs if run.value(column.tag) is not None]
            writer.writerow(
                [
                    *line.cells,
                    column.tag,
                    column.unit,
                    paper,
                    ours.mean,
                    ours.spread,
                    len(ours.values),
                    " ".join(map(str, ours.values)),
                    " ".join(str(run.seed) for run in counted),
                    " ".join(run.name for run in counted),
                    unfinished,
                ]
            )
    return text.getvalue()
