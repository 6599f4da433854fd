"""The arguments of every command, declared with the standard library alone.

A command's own module imports torch or pandas, for which ``--help`` does not wait.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from rcnn.cli.train import conf_folder


class Parser(argparse.ArgumentParser):
    """An argument parser with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and where the help is, and leave with status 2."""
        self.exit(2, f"Error: {message}. See `{self.prog} --help`.\n")


def positive(text: str) -> int:
    """Return an integer above 0, for ``type=`` of an argument."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not possible: it should be 1 or more")
    return int(text)


# --- what several commands have -----------------------------------------------------------------


def layouts(
    parser: argparse.ArgumentParser, *, all_splits: bool = False
) -> Iterator[argparse.ArgumentParser]:
    """Make the next word of a command the layout of a data set; yield the parser of each layout.

    A command adds its own options to these parsers, so that they may follow the data set.

    Args:
        parser: parser of the command.
        all_splits: the command reads all splits of a folder unless one is named.
    """
    parser.epilog = (
        "The options of a layout follow it: write the command as far as the layout, then --help."
    )
    kinds = parser.add_subparsers(dest="layout", required=True, metavar="layout")
    auto = kinds.add_parser("auto", help="any folder: the layout is found out")
    voc = kinds.add_parser("voc", help="a folder with annotations in VOC's XML")
    yolo = kinds.add_parser("yolo", help="a folder with labels of YOLO, or its data.yaml")
    labelme = kinds.add_parser("labelme", help="a folder with Labelme's JSON files")
    for folder in (auto, voc, yolo, labelme):
        folder.add_argument("root", metavar="FOLDER", help="the folder")
    names = {
        auto: "train, val or test",
        voc: "name of a list in ImageSets/Main or of a folder, or all",
        yolo: "train, val, test, or all",
    }
    for folder, text in names.items():
        default = " (default: all of them)" if all_splits else ""
        folder.add_argument("--split", required=not all_splits, help=f"{text}{default}")
    labelme.add_argument("--split", help="name of the split (default: that of the folder)")
    pascal = kinds.add_parser("pascal", help="PASCAL VOC by name")
    pascal.add_argument("name", help="VOC2007, VOC2012, or VOC0712 for both")
    pascal.add_argument("root", metavar="FOLDER", help="the folder that holds VOCdevkit")
    pascal.add_argument("--split", required=True, help="train, val, trainval or test")
    coco = kinds.add_parser("coco", help="an annotation file in COCO's format")
    coco.add_argument("annotations", metavar="FILE", help="the JSON file")
    csv = kinds.add_parser("csv", help="a table with a row for each object")
    csv.add_argument("annotations", metavar="FILE", help="the CSV file")
    text = "the folder of the images"
    coco.add_argument("--images", required=True, metavar="FOLDER", help=text)
    csv.add_argument("--images", metavar="FOLDER", help=f"{text} (default: the table's)")
    for one in (coco, csv):
        one.add_argument("--split", help="name of the split (default: the name of the file)")
    files = (auto, voc, yolo, labelme, pascal, coco, csv)
    for layout in files:
        text = (
            "names of the classes 1, 2 and so on, as in data.class_names of the training "
            "(default: the checkpoint's, or those of the data)"
        )
        layout.add_argument("--class-names", nargs="+", metavar="NAME", help=text)
        text = "what is done about a bad image or object (default: repair)"
        choices = ("repair", "raise", "skip")
        layout.add_argument("--on-error", choices=choices, default="repair", help=text)
    shapes = kinds.add_parser("shapes", help="synthetic pictures, the data set of data=shapes")
    splits = ("train", "val", "test")
    shapes.add_argument("--split", required=True, choices=splits, help="the split")
    yield from (*files, shapes)


def parse_data(words: Sequence[str], prog: str) -> argparse.Namespace:
    """Return the data set, the split and the proposals that words after an option name.

    Args:
        words: a layout and its arguments.
        prog: the words before them, for errors.
    """
    parser = Parser(prog=prog)
    for layout in layouts(parser):
        _add_proposals(layout)
    return parser.parse_args(list(words))


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    text = "a checkpoint that a training wrote, such as outputs/.../best.ckpt"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=text)


def _add_proposals(parser: argparse.ArgumentParser) -> None:
    text = "proposals of the data set, which `rcnn propose` makes, for a detector without RPN"
    parser.add_argument("--proposals", metavar="FILE", help=text)
    _add_limit(parser, "proposals")


def _add_limit(parser: argparse.ArgumentParser, noun: str) -> None:
    text = f"{noun} of an image (default: 2000)"
    parser.add_argument("--limit", type=positive, default=2000, help=text)


def _add_device(parser: argparse.ArgumentParser) -> None:
    text = "cpu, cuda, cuda:1 and so on (default: cpu)"
    parser.add_argument("--device", default="cpu", help=text)


def _add_batches(parser: argparse.ArgumentParser) -> None:
    text = "images at once (default: 2)"
    parser.add_argument("--batch-size", type=positive, default=2, metavar="N", help=text)
    _add_device(parser)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    text = "processes that decode images (default: 2)"
    parser.add_argument("--workers", type=int, default=2, help=text)


# --- the commands -------------------------------------------------------------------------------


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rcnn train``, for its help; Hydra reads them."""
    text = "GROUP=CHOICE, KEY=VALUE, or an option of Hydra's"
    parser.add_argument("words", nargs="*", metavar="WORD", help=text)
    choices: dict[str, list[str]] = {}
    for file in sorted(conf_folder().glob("*/*.yaml")):
        choices.setdefault(file.parent.name, []).append(file.stem)
    groups = [f"{group} ({', '.join(names)})" for group, names in choices.items()]
    parser.epilog = (
        "GROUP=CHOICE takes a part of the config from a file: backbone=vgg16. KEY=VALUE sets one "
        "entry: anchors.scales=[4,8,16]. With -m, values divided by commas are a sweep. "
        "--cfg job prints the config with all keys and runs nothing, --info defaults shows its "
        f"files, --hydra-help lists Hydra's options. Groups: {', '.join(groups)}."
    )


def predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rcnn predict``."""
    _add_checkpoint(parser)
    text = "a picture, or a folder of pictures"
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=text)
    text = (
        "folder for the drawn pictures, detections.json and detections.jsonl, which has a line for "
        "each picture as soon as it is done (default: predictions)"
    )
    parser.add_argument("--out", default="predictions", metavar="FOLDER", help=text)
    parser.add_argument("--score", type=float, default=0.5, help="lowest score (default: 0.5)")
    _add_batches(parser)


def inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rcnn inspect``."""
    _add_checkpoint(parser)
    parser.add_argument("picture", metavar="PICTURE", help="one picture")
    text = "file to write (default: stages.png)"
    parser.add_argument("--out", default="stages.png", metavar="FILE", help=text)
    text = "boxes drawn of each stage (default: 20)"
    parser.add_argument("--top", type=positive, default=20, help=text)


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rcnn evaluate``."""
    _add_checkpoint(parser)
    for layout in layouts(parser):
        _add_proposals(layout)
        layout.add_argument("--json", metavar="FILE", help="file to write all figures to")
        _add_batches(layout)
        _add_workers(layout)


def check_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rcnn check-data``."""
    for layout in layouts(parser, all_splits=True):
        layout.set_defaults(on_error="skip")  # all faults are reported, not the first alone
        text = "settings of the detector that is to be trained, such as anchors.scales=[2,4,8]"
        layout.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
        layout.add_argument("--json", metavar="FILE", help="file to write the whole report to")
        text = "page to write, with plots and pictures"
        layout.add_argument("--html", metavar="FILE", help=text)


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rcnn convert``."""
    for layout in layouts(parser, all_splits=True):
        kinds = ("coco", "voc", "yolo", "csv")
        layout.add_argument("--to", required=True, choices=kinds, help="layout to write")
        text = "folder to write, which does not exist yet"
        layout.add_argument("--out", required=True, metavar="FOLDER", help=text)


def show_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rcnn show-data``."""
    for layout in layouts(parser):
        text = "the file to write (default: grid.png)"
        layout.add_argument("--out", default="grid.png", metavar="FILE", help=text)
        text = "none, paper, light, strong, large_scale_jitter or copy_paste (default: paper)"
        names = ("PRESET", "KEY=VALUE")
        layout.add_argument("--augment", nargs="+", default=["paper"], metavar=names, help=text)
        for name, default, text in (
            ("count", 12, "pictures"),
            ("columns", 4, "pictures in a row"),
            ("shorter-side", 600, "shorter side of a picture, as images.shorter_side"),
            ("longer-side", 1000, "largest longer side, as images.longer_side"),
        ):
            text = f"{text} (default: {default})"
            layout.add_argument(f"--{name}", type=positive, default=default, help=text)
        text = "seed of order and augmentation, as loader.seed (default: 0)"
        layout.add_argument("--seed", type=int, default=0, help=text)


def propose_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rcnn propose``."""
    methods = parser.add_subparsers(dest="method", required=True, metavar="method")
    search = methods.add_parser("selective-search", help="segment and group; needs OpenCV")
    rpn = methods.add_parser("rpn", help="the proposal network of a checkpoint")
    _add_checkpoint(rpn)
    mat = methods.add_parser("import-mat", help="boxes of R-CNN's authors; needs scipy")
    mat.add_argument("file", metavar="FILE", help="the .mat file")
    results = methods.add_parser("import-json", help="boxes in the format of COCO's results")
    results.add_argument("file", metavar="FILE", help="the JSON file")
    for method in (search, rpn, mat, results):
        for layout in layouts(method):
            text = (
                "the file, NAME.safetensors, or a folder, in which it is named after the split "
                "(default: proposals). A training with proposals.folder=FOLDER reads "
                "train.safetensors, val.safetensors and test.safetensors there, whatever its "
                "splits are called in the data set"
            )
            layout.add_argument("--out", default="proposals", help=text)
            if method is search:
                layout.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
                _add_limit(layout, "boxes")
                text = "strategies of segmentation and grouping: few or all (default: fast)"
                modes = ("fast", "quality")
                layout.add_argument("--mode", choices=modes, default="fast", help=text)
            elif method is rpn:
                _add_workers(layout)
                _add_limit(layout, "boxes")
                _add_batches(layout)
            elif method is results:
                text = "an image that the file never mentions has no proposals; else it is an error"
                layout.add_argument("--absent-is-empty", action="store_true", help=text)


def compress_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rcnn compress``."""
    _add_checkpoint(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="the compressed checkpoint")
    text = "draw mAP over time for several --ranks or --energy; the figures go to FILE.csv"
    parser.add_argument("--curve", type=Path, metavar="FILE.png", help=text)
    choice = parser.add_mutually_exclusive_group(required=True)
    text = "such as 1024 256; 0 leaves a layer whole; for a curve give it several times"
    layers = ("FC6", "FC7")
    choice.add_argument("--ranks", nargs=2, type=int, action="append", metavar=layers, help=text)
    text = (
        "the smallest ranks that keep this share of the squared singular values, in each layer; "
        "for a curve several"
    )
    choice.add_argument("--energy", nargs="+", type=float, metavar="SHARE", help=text)
    text = "the ranks that lose the least while fc6 and fc7 take this long on this machine"
    choice.add_argument("--milliseconds", type=float, metavar="MS", help=text)
    text = "RoIs of an image for --milliseconds (default: as in a test)"
    parser.add_argument("--rois", type=positive, help=text)
    text = "files to time (default: the data's, else noise)"
    parser.add_argument("--pictures", nargs="+", default=[], help=text)
    text = "timings, of which the median counts (default: 5)"
    parser.add_argument("--repeats", type=positive, default=5, help=text)
    _add_device(parser)
    _add_workers(parser)
    text = (
        "test before and after on a data set, named as for `rcnn evaluate`: voc ROOT --split test; "
        "this comes last"
    )
    parser.add_argument("--data", nargs=argparse.REMAINDER, metavar="LAYOUT ...", help=text)


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rcnn report``."""
    text = "folder of a sweep or of a run"
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help=text)
    text = "key of metrics.json, such as test/map_50; may be repeated (default: the table's own)"
    parser.add_argument("--metric", action="append", default=[], metavar="TAG", help=text)
    text = "folder for report.txt, .csv and .png (default: the sweep's)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=text)
