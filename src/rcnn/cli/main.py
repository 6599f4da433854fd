"""The ``rcnn`` command: what one does with a detector once it is trained.

Only the standard library is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "predict": "detect objects in pictures; draw them and list them as JSON",
    "evaluate": "test a detector on a data set: average precision of all classes and of each",
    "compress": "make a detector faster by truncated SVD of its fully connected layers",
    "inspect": "draw every stage of a detector on one picture, from anchors to detections",
    "check-data": "read a whole data set, and report its faults and its statistics",
    "propose": "make the proposals of a data set, for a detector that makes none itself",
    "report": "the table of a sweep, a paper's figures beside ours; or a comparison of runs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 2 for a mistake of the user."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="rcnn", description="Two-stage detectors. Training is `python train.py`."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, description=text, add_help=False)
    chosen = parser.parse_args(words[:1]).command
    module = importlib.import_module(f"rcnn.cli.{chosen.replace('-', '_')}")
    own = argparse.ArgumentParser(prog=f"rcnn {chosen}", description=COMMANDS[chosen])
    module.add_arguments(own)
    try:
        return int(module.run(own.parse_args(words[1:])))
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 2
