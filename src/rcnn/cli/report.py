"""``rcnn report``: the table of a sweep, a paper's figures beside ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from rcnn.report import compare, find_runs
from rcnn.report.files import write_report
from rcnn.report.picture import can_draw
from rcnn.report.text import WIDTH, rendered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="folder", help="of a sweep, or of a single run"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="TAG",
        help="of metrics.json, such as test/map_50; may be given several times (the table's own)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for report.txt, .csv and .png (the sweep's)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report and write its files."""
    report = compare(find_runs(arguments.folders), arguments.metric)
    console = Console(highlight=False, width=WIDTH)
    console.print(rendered(report))
    if arguments.out is None and len(arguments.folders) > 1:
        console.print("Not written: of several folders none is the report's. Give --out FOLDER.")
        return 0
    for path in write_report(report, arguments.out or arguments.folders[0]):
        console.print(f"Written: {path}", soft_wrap=True)
    if not can_draw():
        console.print("No picture without matplotlib: pip install 'rcnn[plots]'", markup=False)
    return 0
