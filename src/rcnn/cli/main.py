"""The ``rcnn`` command: its commands, and the arguments that they take.

Only the standard library is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import NamedTuple, NoReturn

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended."""

CHECKPOINT = "a checkpoint that a training wrote, such as outputs/.../best.ckpt"
DEVICE = "cpu, cuda, cuda:1 and so on (default: cpu)"


class Parser(argparse.ArgumentParser):
    """An argument parser with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and where the help is, and leave with status 2."""
        self.exit(2, f"Error: {message}. See `{self.prog} --help`.\n")


class Command(NamedTuple):
    """A command, and the functions that make it.

    Attributes:
        text: what the command does, for the help.
        module: name of its module in ``rcnn.cli``, imported when the command is chosen.
        add_arguments: declares its arguments; null: the module's own ``add_arguments(parser)``.
        run: name of the module's function that takes the arguments and returns the exit status.
    """

    text: str
    module: str
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None
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
    if name == "train":  # the other words are Hydra's
        return int(_module(command).run(words[1:]))
    try:
        own = Parser(prog=f"rcnn {name}", description=_sentence(command.text))
        add = command.add_arguments or _module(command).add_arguments
        add(own)
        arguments = own.parse_args(words[1:])
        return int(getattr(_module(command), command.run)(arguments))
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.stderr.write(f"Error: {' '.join(str(error).split())}\n")
        return 2


def layouts(
    parser: argparse.ArgumentParser, *, checks_data: bool = False
) -> Iterator[argparse.ArgumentParser]:
    """Make the next word of a command the layout of a data set; yield the parser of each layout.

    A command adds its own options to these parsers, so that they may follow the data set.

    Args:
        parser: parser of the command.
        checks_data: the command reports the faults of a data set: it skips them while it reads, and
            reads all images of a folder in VOC layout unless a split is named.
    """
    parser.epilog = (
        "The options of a layout follow it: write the command as far as the layout, then --help."
    )
    kinds = parser.add_subparsers(dest="layout", required=True, metavar="layout")
    voc = kinds.add_parser("voc", help="a folder with Annotations and JPEGImages")
    voc.add_argument("root", metavar="FOLDER", help="the folder")
    voc.add_argument(
        "--split",
        required=not checks_data,
        default="all",
        help="name of a file in ImageSets/Main, or all" + " (default: all)" * checks_data,
    )
    voc.add_argument(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="names of the classes 1, 2 and so on, as in data.class_names of the training "
        "(default: the checkpoint's, or those of the data)",
    )
    pascal = kinds.add_parser("pascal", help="PASCAL VOC by name")
    pascal.add_argument("name", help="VOC2007, VOC2012, or VOC0712 for both")
    pascal.add_argument("root", metavar="FOLDER", help="the folder that holds VOCdevkit")
    pascal.add_argument("--split", required=True, help="train, val, trainval or test")
    coco = kinds.add_parser("coco", help="an annotation file in COCO's format")
    coco.add_argument("annotations", metavar="FILE", help="the JSON file")
    coco.add_argument("--images", required=True, metavar="FOLDER", help="the folder of the images")
    coco.add_argument("--split", help="name of the split (default: the name of the file)")
    for files in (voc, pascal, coco):
        if checks_data:
            files.set_defaults(on_error="skip")
            continue
        files.add_argument(
            "--on-error",
            choices=("raise", "skip"),
            default="raise",
            help="stop at a bad image or object, or skip it (default: raise)",
        )
    shapes = kinds.add_parser("shapes", help="synthetic pictures, the data set of data=shapes")
    shapes.add_argument(
        "--split", required=True, choices=("train", "val", "test"), help="the split"
    )
    yield from (voc, pascal, coco, shapes)


def add_proposals(parser: argparse.ArgumentParser) -> None:
    """Add the options for the proposals of a data set."""
    parser.add_argument(
        "--proposals",
        metavar="FILE",
        help="proposals of the data set, which `rcnn propose` makes, for a detector without RPN",
    )
    parser.add_argument(
        "--limit", type=positive, default=2000, help="proposals of an image (default: 2000)"
    )


def parse_data(words: Sequence[str], prog: str) -> argparse.Namespace:
    """Return the data set, the split and the proposals that words after an option name.

    Args:
        words: a layout and its arguments.
        prog: the words before them, for errors.
    """
    parser = Parser(prog=prog)
    for layout in layouts(parser):
        add_proposals(layout)
    return parser.parse_args(list(words))


def positive(text: str) -> int:
    """Return an integer above 0, for ``type=`` of an argument."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not possible: it should be 1 or more")
    return int(text)


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="a picture, or a folder of pictures"
    )
    parser.add_argument(
        "--out",
        default="predictions",
        metavar="FOLDER",
        help="folder for the drawn pictures, detections.json and detections.jsonl, which has a "
        "line for each picture as soon as it is done (default: predictions)",
    )
    parser.add_argument("--score", type=float, default=0.5, help="lowest score (default: 0.5)")
    _add_batches(parser)


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("picture", metavar="PICTURE", help="one picture")
    parser.add_argument(
        "--out", default="stages.png", metavar="FILE", help="file to write (default: stages.png)"
    )
    parser.add_argument(
        "--top", type=positive, default=20, help="boxes drawn of each stage (default: 20)"
    )


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    for layout in layouts(parser):
        add_proposals(layout)
        layout.add_argument("--json", metavar="FILE", help="file to write all figures to")
        _add_batches(layout)
        layout.add_argument(
            "--workers", type=int, default=2, help="processes that decode images (default: 2)"
        )


def _check_data_arguments(parser: argparse.ArgumentParser) -> None:
    for _ in layouts(parser, checks_data=True):
        pass  # the command has no options of its own


def _add_batches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size", type=positive, default=2, metavar="N", help="images at once (default: 2)"
    )
    parser.add_argument("--device", default="cpu", help=DEVICE)


def _module(command: Command) -> ModuleType:
    return importlib.import_module(f"rcnn.cli.{command.module}")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


COMMANDS = {
    "train": Command("train and test a detector, as python train.py does", "train"),
    "predict": Command(
        "detect objects in pictures; draw them and list them as JSON",
        "predict",
        _predict_arguments,
    ),
    "evaluate": Command(
        "test a checkpoint on a data set: average precision of all classes and of each",
        "evaluate",
        _evaluate_arguments,
    ),
    "inspect": Command(
        "draw every stage of a detector on one picture, from anchors to detections",
        "predict",
        _inspect_arguments,
        "inspect",
    ),
    "check-data": Command(
        "read a whole data set, and report its faults and its statistics",
        "data",
        _check_data_arguments,
    ),
    "propose": Command(
        "make the proposals of a data set, for a detector without RPN",
        "propose",
    ),
    "compress": Command(
        "make a checkpoint faster by truncated SVD of its fully connected layers",
        "compress",
    ),
    "report": Command(
        "tabulate the runs of a sweep beside the figures of a paper, or compare runs",
        "report",
    ),
}
"""The commands by name, in the order of the help."""
