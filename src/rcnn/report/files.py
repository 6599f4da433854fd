"""The files of a report, each written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rcnn.report.comparison import Report
from rcnn.report.picture import can_draw, picture
from rcnn.report.sheet import as_csv
from rcnn.report.text import as_text


def write_report(report: Report, folder: Path) -> Sequence[Path]:
    """Write ``report.txt``, ``report.csv`` and, with matplotlib, ``report.png``.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"report.txt": as_text(report).encode(), "report.csv": as_csv(report).encode()}
    if can_draw():
        contents["report.png"] = picture(report)
    return [_write(folder / name, content) for name, content in contents.items()]


def _write(path: Path, content: bytes) -> Path:
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        file.write(content)
    written = Path(file.name)
    written.chmod(0o644)  # as other files; a temporary one is its owner's alone
    written.replace(path)
    return path
