"""``rcnn check-data``: the faults and the statistics of a data set."""

from __future__ import annotations

import argparse

from rich.console import Console

from rcnn.cli.layouts import layouts, open_dataset
from rcnn.data import check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    for _ in layouts(parser, counts_faults=True):
        pass  # it has no options beside the data set


def run(arguments: argparse.Namespace) -> int:
    """Print the report; the exit status is 1 if the data has faults."""
    report = check(open_dataset(arguments))
    Console().print(str(report), highlight=False, markup=False, soft_wrap=True)
    return 0 if report.is_sound else 1
