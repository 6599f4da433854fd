"""What compressions save and what they cost: as a table, as CSV and as a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from rcnn.files import whole_file
from rcnn.training.compression_point import Point
from rcnn.view import plot_curves, to_pil
from rcnn.view.scores import COLUMNS, figure


def point_table(points: Sequence[Point]) -> Table:
    """Return a table with a column for each point, the first of which is the whole network."""
    table = Table()
    table.add_column("fc6/fc7", no_wrap=True)
    for point in points:
        table.add_column(point.name, justify="right")
    table.add_row("parameters", *(_millions(point.parameters) for point in points))
    counts = (_millions(point.tail_parameters) for point in points)
    table.add_row("of fc6 and fc7", *counts, end_section=True)
    for stage in points[0].breakdown.stages:
        table.add_row(stage, *(_milliseconds(point.breakdown.stages[stage]) for point in points))
    totals = (_milliseconds(point.breakdown.total) for point in points)
    table.add_row("ms per image", *totals, style="bold", end_section=True)
    for name, (column, _) in COLUMNS.items():
        if any(name in point.metrics for point in points):
            shares = (figure(point.metrics.get(name, math.nan)) for point in points)
            table.add_row(column, *shares)
    return table


def write_curve(points: Sequence[Point], path: Path) -> list[Path]:
    """Draw the average precision over the time of fc6 and fc7, and write all figures as CSV.

    The rest of the network is the same everywhere, so that its time would only add noise.

    Returns:
        The files written.
    """
    title, _ = COLUMNS["map"]
    places = [(1000 * _tail_seconds(point), point.metrics["map"]) for point in points]
    line = sorted(places)
    series = {"fc6/fc7": ([x for x, _ in line], [y for _, y in line])}
    series |= {point.name: ([x], [y]) for point, (x, y) in zip(points, places, strict=True)}
    axis = "milliseconds of fc6 and fc7 per image"
    picture = plot_curves(series, "Truncated SVD of fc6 and fc7", axis, title)
    with whole_file(path) as partial:
        to_pil(picture).save(partial)
    sheet = path.with_suffix(".csv")
    with whole_file(sheet) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        rows = [_row(point) for point in points]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [path, sheet]


def _tail_seconds(point: Point) -> float:
    return point.breakdown.stages["fc6"] + point.breakdown.stages["fc7"]


def _row(point: Point) -> dict[str, object]:
    first, second = point.ranks
    seconds = {f"seconds_{stage}": value for stage, value in point.breakdown.stages.items()}
    return {
        "fc6_rank": first,
        "fc7_rank": second,
        "parameters": point.parameters,
        "fc6_fc7_parameters": point.tail_parameters,
        **seconds,
        "seconds": point.breakdown.total,
        **{name: point.metrics.get(name, "") for name in COLUMNS},
    }


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
