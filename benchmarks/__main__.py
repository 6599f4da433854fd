"""``python -m benchmarks <part> [options]``: one part of the suite, to a table and a JSON file."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import results

PARTS = {
    name: f"benchmarks.{name}"
    for name in (
        *("detectors", "stages", "switches", "growth", "memory"),
        *("loading", "startup", "evaluation", "processes", "quality"),
    )
}
"""Modules with ``add_arguments(parser)`` and ``measure(arguments) -> rows``, by part."""


def main(words: Sequence[str]) -> None:
    """Run the part that the command line names.

    Args:
        words: the command line behind ``python -m benchmarks``.
    """
    chooser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="python -m benchmarks <part> [options]",
        description="Measure speed, memory or quality. `<part> --help` describes a part.",
    )
    chooser.add_argument("part", choices=PARTS, help=", ".join(PARTS), metavar="<part>")
    part = chooser.parse_args(words[:1]).part
    module = importlib.import_module(PARTS[part])

    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {part}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    default = results.FOLDER / f"{part}.json"
    parser.add_argument("--out", type=Path, default=default, help="the JSON file (%(default)s)")
    arguments = parser.parse_args(words[1:])
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = module.measure(arguments)
    command = " ".join(["python -m benchmarks", *words])
    results.write(part, rows, arguments.out, command)


if __name__ == "__main__":
    main(sys.argv[1:])
