"""The folders of runs: which there are, and what each has left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CONFIG, METRICS = "config.yaml", "metrics.json"


class ReportError(ValueError):
    """There is nothing to report on, or not in this way."""


@dataclass(frozen=True)
class Run:
    """One run, finished or not.

    Attributes:
        folder: where it lies.
        name: its folder, as short as it is still told from the others.
        config: as it was resolved; empty if the run failed before it was written.
        results: what ``metrics.json`` holds; None for a run that has not come to its end.
        fault: why there are no results, in words; empty if there are.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    results: Mapping[str, Any] | None
    fault: str

    def value(self, tag: str) -> float | None:
        """Return a measure by its tag, or ``seconds`` or ``steps``; None if it is not there."""
        if self.results is None:
            return None
        found = self.results.get("metrics", {}).get(tag, self.results.get(tag))
        return float(found) if isinstance(found, int | float) else None

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that have a value."""
        if self.results is None:
            return ()
        known = [*self.results.get("metrics", {}), "seconds", "steps"]
        return tuple(tag for tag in known if self.value(tag) is not None)

    @property
    def seed(self) -> object:
        """Of everything random."""
        return self.config.get("seed")


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Find the runs at or below each folder, in the order of their names and numbers.

    Args:
        folders: sweep folders, single run folders, or folders of these.

    Raises:
        ReportError: a folder does not exist or holds no run.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(f"{folder}: there is no such folder.")
        found = sorted(_below(folder), key=_natural)
        if not found:
            raise ReportError(
                f"{folder} holds no runs. A sweep folder holds multirun.yaml and a folder for each "
                f"job (0, 1, ...), each with {CONFIG} and, once it is finished, {METRICS}; a run "
                "folder holds these two itself."
            )
        for path in found:
            below = path.relative_to(folder).as_posix()
            if below == ".":
                name = folder.resolve().name
            else:
                name = below if len(folders) == 1 else f"{folder.resolve().name}/{below}"
            runs.setdefault(path.resolve(), _read(path, name))
    return list(runs.values())


def _below(folder: Path) -> list[Path]:
    """Return the run folders at or below ``folder``; runs do not lie in runs."""
    if (folder / CONFIG).is_file() or (folder / METRICS).is_file():
        return [folder]
    is_sweep = (folder / "multirun.yaml").is_file()
    found = []
    for child in folder.iterdir():
        if not child.is_dir() or child.name.startswith("."):
            continue
        runs = _below(child)
        # A job that failed before it wrote anything has left its number and its log.
        if not runs and is_sweep and (child.name.isdigit() or any(child.glob("*.log"))):
            runs = [child]
        found += runs
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order 2 before 10."""
    parts = re.findall(r"\d+|\D+", path.as_posix())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _read(folder: Path, name: str) -> Run:
    config: Mapping[str, Any] = {}
    results, fault = None, ""
    try:
        if (folder / CONFIG).is_file():
            config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        if (folder / METRICS).is_file():
            results = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        fault = f"cannot be read: {' '.join(str(error).split())}"
    if results is None and not fault:
        fault = f"no {METRICS}; its folder holds {_contents(folder)}"
    if not isinstance(config, Mapping) or not isinstance(results, Mapping | None):
        raise ReportError(f"{folder}: {CONFIG} or {METRICS} is not one of a run of this package.")
    return Run(folder, name, config, results, fault)


def _contents(folder: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names) or "nothing"
