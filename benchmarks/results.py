"""The results of a part of the suite: a table, and a JSON file with all that they depend on."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.machine import processor
from rcnn.app.record import environment
from rcnn.files import write_json

FOLDER = Path("benchmarks/results")
"""Folder of the JSON files, relative to the repository's root."""

Row: TypeAlias = Mapping[str, str | int | float]
"""Values by column; the name of a column ends with its unit, such as ``step ms``."""


def write(part: str, rows: Sequence[Row], path: Path, command: str) -> None:
    """Print the rows, and write them with versions, commit, processor, threads and date.

    Args:
        part: name of the part.
        rows: rows, which may have different columns.
        path: path of the JSON file, which is replaced.
        command: the command line.
    """
    machine = {
        **environment(),
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }
    write_json(path, {"part": part, "environment": machine, "rows": [dict(row) for row in rows]})
    # A file or a pipe has no width to fold the table to.
    console = Console(width=None if sys.stdout.isatty() else 240)
    if len(rows) > 1:
        shared = constants(rows)
        console.print(", ".join(f"{name} {text_of(value)}" for name, value in shared.items()))
        rows = [{name: row[name] for name in row if name not in shared} for row in rows]
    console.print(table(rows))
    console.print(f"Written to {path}")


def constants(rows: Sequence[Row]) -> Row:
    """Return the columns that have one value in all rows."""
    return {
        name: value
        for name, value in rows[0].items()
        if all(name in row and row[name] == value for row in rows)
    }


def table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table in Markdown, which may be copied into a text."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    drawn = Table(box=box.MARKDOWN)
    for name in columns:
        words = all(isinstance(row.get(name, ""), str) for row in rows)
        drawn.add_column(name, justify="left" if words else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(text_of(row[name]) if name in row else "" for name in columns))
    return drawn


def text_of(value: str | int | float) -> str:
    """Return a value for the table; numbers with a point have three digits or more."""
    if isinstance(value, str | int):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
