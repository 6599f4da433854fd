"""The ``rcnn`` command.

Only the standard library is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

from rcnn.cli import arguments as declared
from rcnn.cli.arguments import Parser

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended."""


class Command(NamedTuple):
    """A command, and the functions that make it.

    Attributes:
        text: what the command does, for the help.
        module: name of its module in ``rcnn.cli``, imported when the command runs.
        add_arguments: function that adds its arguments to a parser.
        run: name of the module's function that takes the arguments and returns the exit status.
    """

    text: str
    module: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: str = "run"


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
    command = COMMANDS[name]
    if name == "train" and not {"-h", "--help"} & set(words):  # the other words are Hydra's
        return int(_module(command).run(words[1:]))
    try:
        own = Parser(prog=f"rcnn {name}", description=_sentence(command.text))
        command.add_arguments(own)
        # A word before it is Hydra's, and may look like an option.
        arguments = own.parse_args(["--help"] if name == "train" else words[1:])
        return int(getattr(_module(command), command.run)(arguments))
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.stderr.write(f"Error: {' '.join(str(error).split())}\n")
        return 2


def _module(command: Command) -> ModuleType:
    return importlib.import_module(f"rcnn.cli.{command.module}")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


COMMANDS = {
    "train": Command(
        "train and test a detector, as python train.py does", "train", declared.train_arguments
    ),
    "predict": Command(
        "detect objects in pictures; draw them and list them as JSON",
        "predict",
        declared.predict_arguments,
    ),
    "evaluate": Command(
        "test a checkpoint on a data set: average precision of all classes and of each",
        "evaluate",
        declared.evaluate_arguments,
    ),
    "inspect": Command(
        "draw every stage of a detector on one picture, from anchors to detections",
        "predict",
        declared.inspect_arguments,
        "inspect",
    ),
    "check-data": Command(
        "read a whole data set, and report its faults and its statistics",
        "data",
        declared.check_data_arguments,
    ),
    "propose": Command(
        "make the proposals of a data set, for a detector without RPN",
        "propose",
        declared.propose_arguments,
    ),
    "compress": Command(
        "make a checkpoint faster by truncated SVD of its fully connected layers",
        "compress",
        declared.compress_arguments,
    ),
    "report": Command(
        "tabulate the runs of a sweep beside the figures of a paper, or compare runs",
        "report",
        declared.report_arguments,
    ),
}
"""The commands by name, in the order of the help."""
