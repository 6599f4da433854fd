"""What a part of the suite measured: a table for people, a JSON file for later.

A row is a mapping from column names, units included ("step ms"), to plain numbers and words.
"""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from rcnn.app.run import environment
from rcnn.files import write_json

Row: TypeAlias = Mapping[str, str | int | float]

FOLDER = Path("benchmarks/results")
"""Where the files go, below the folder that the suite is started in: the repository's."""


def write(part: str, rows: Sequence[Row], path: Path, command: str) -> None:
    """Print the rows, and write them with all that they depend on.

    Args:
        part: the part of the suite.
        rows: what it measured; columns may differ from row to row.
        path: the JSON file, which is replaced.
        command: the command line, for the record.
    """
    record = {"part": part, "environment": machine(command), "rows": [dict(row) for row in rows]}
    write_json(path, record)
    # A file or a pipe has no width to fold the table to.
    console = Console(width=None if sys.stdout.isatty() else 240)
    if len(rows) > 1:
        shared = constants(rows)
        console.print(", ".join(f"{name} {spelled(value)}" for name, value in shared.items()))
        rows = [{name: row[name] for name in row if name not in shared} for row in rows]
    console.print(table(rows))
    console.print(f"Written to {path}")


def machine(command: str) -> dict[str, Any]:
    """Return the versions, the commit, the processor, the threads in use, and the date."""
    return {
        **environment(),
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def constants(rows: Sequence[Row]) -> dict[str, str | int | float]:
    """Return the columns that have one value in all rows."""
    first = rows[0]
    return {
        name: value
        for name, value in first.items()
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
        drawn.add_row(*(spelled(row[name]) if name in row else "" for name in columns))
    return drawn


def spelled(value: str | int | float) -> str:
    """Return a value for the table: numbers with three digits or more."""
    if isinstance(value, str | int):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
