"""``rcnn report``: the table of a sweep, a paper's figures beside ours; or a comparison of runs."""

from __future__ import annotations

import argparse

from rich.console import Console

from rcnn.report.plots import can_plot, plot_report
from rcnn.report.runs import find_runs
from rcnn.report.tables import compare
from rcnn.report.text import WIDTH, rendered, write_report


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
