"""``rcnn report``: the table of a sweep, a paper's figures beside ours; or a comparison of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from rcnn.report.plots import can_plot, plot_report
from rcnn.report.runs import find_runs
from rcnn.report.tables import WIDTH, compare, rendered, write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="folder", help="folder of a sweep or of a run"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="TAG",
        help="key of metrics.json, such as test/map_50; may be repeated (default: the table's own)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for report.txt, .csv and .png (default: the sweep's)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report and write its files."""
    report = compare(find_runs(arguments.folders), arguments.metric)
    console = Console(highlight=False, width=WIDTH)
    console.print(rendered(report))
    if arguments.out is None and len(arguments.folders) > 1:
        console.print("Not written, for the folders are several: give --out FOLDER.")
        return 0
    picture = plot_report(report) if can_plot() else None
    for path in write_report(report, arguments.out or arguments.folders[0], picture):
        console.print(f"Written: {path}", soft_wrap=True, markup=False)
    if picture is None:
        console.print("No picture without matplotlib: pip install 'rcnn[plots]'", markup=False)
    return 0
