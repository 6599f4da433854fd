"""The ``rcnn`` command.

Only the standard library is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rcnn.cli import arguments as declared
from rcnn.cli.arguments import Parser

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended."""


class Command(NamedTuple):
    """A command, and the functions that make it.

    Attributes:
        add_arguments: function that adds its arguments to a parser.
        run: module and name of the function that takes the arguments and returns the exit status;
            the module is imported when the command runs.
        text: what the command does, for the help.
    """

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: str
    text: str


COMMANDS = {
    "train": Command(
        declared.train_arguments,
        "rcnn.cli.train:run",
        "train and test a detector, as python train.py does",
    ),
    "predict": Command(
        declared.predict_arguments,
        "rcnn.cli.predict:run",
        "detect objects in pictures; draw them and list them as JSON",
    ),
    "evaluate": Command(
        declared.evaluate_arguments,
        "rcnn.cli.evaluate:run",
        "test a checkpoint on a data set: average precision of all classes and of each",
    ),
    "inspect": Command(
        declared.inspect_arguments,
        "rcnn.cli.predict:inspect",
        "draw every stage of a detector on one picture, from anchors to detections",
    ),
    "check-data": Command(
        declared.check_data_arguments,
        "rcnn.cli.check_data:run",
        "read a whole data set, and report its faults, and anchors that fit it",
    ),
    "convert": Command(
        declared.convert_arguments,
        "rcnn.cli.convert:run",
        "write a data set in another layout: COCO, VOC, YOLO or CSV",
    ),
    "show-data": Command(
        declared.show_data_arguments,
        "rcnn.cli.show_data:run",
        "draw pictures and objects as a training sees them, augmented",
    ),
    "propose": Command(
        declared.propose_arguments,
        "rcnn.cli.propose:run",
        "make the proposals of a data set, for a detector without RPN",
    ),
    "compress": Command(
        declared.compress_arguments,
        "rcnn.cli.compress:run",
        "make a checkpoint faster by truncated SVD of its fully connected layers",
    ),
    "report": Command(
        declared.report_arguments,
        "rcnn.cli.report:run",
        "tabulate the runs of a sweep beside the figures of a paper, or compare runs",
    ),
}
"""The commands by name, in the order of the help."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        words: the command and its arguments; null: those of the process.

    Returns:
        The exit status: 0 for success, 1 if data or pictures have faults, 2 for a mistake of the
        user, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if words is None else words)
    parser = Parser(prog="rcnn", description="Object detection with the R-CNN family.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.text, add_help=False)
    name = parser.parse_args(words[:1]).command
    add_arguments, run, text = COMMANDS[name]
    if name == "train" and not {"-h", "--help"} & set(words):  # the other words are Hydra's
        return int(pkgutil.resolve_name(run)(words[1:]))
    try:
        own = Parser(prog=f"rcnn {name}", description=f"{text[0].upper()}{text[1:]}.")
        add_arguments(own)
        # A word before it is Hydra's, and may look like an option.
        arguments = own.parse_args(["--help"] if name == "train" else words[1:])
        return int(pkgutil.resolve_name(run)(arguments))
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.stderr.write(f"Error: {' '.join(str(error).split())}\n")
        return 2
