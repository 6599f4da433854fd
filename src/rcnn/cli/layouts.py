"""The data sets that a command line can name."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rcnn.data import COCODataset, DetectionDataset, ShapesSource, VOCDataset, pascal_voc
from rcnn.data.splits import SPLITS


def layouts(
    parser: argparse.ArgumentParser, *, counts_faults: bool = False
) -> Iterator[argparse.ArgumentParser]:
    """Make the data set the next word of a command, and yield the parser of each layout.

    A caller gives these the command's own options, so that they may follow the data set.

    Args:
        parser: of the command.
        counts_faults: the command tells all faults of a data set, and so is not asked what to do
            about them; of a folder in VOC layout it takes everything unless a split is named.
    """
    kinds = parser.add_subparsers(dest="layout", required=True, metavar="layout")
    voc = kinds.add_parser("voc", help="a folder with Annotations and JPEGImages")
    voc.add_argument("root", help="the folder")
    voc.add_argument(
        "--split",
        required=not counts_faults,
        default="all",
        help="a file in ImageSets/Main, or all" + " (all)" * counts_faults,
    )
    voc.add_argument(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="of the classes 1, 2 ... (those of the data); as data.class_names of the training",
    )
    pascal = kinds.add_parser("pascal", help="PASCAL VOC by name")
    pascal.add_argument("name", help="VOC2007, VOC2012, or VOC0712 for both")
    pascal.add_argument("root", help="the folder that holds VOCdevkit")
    pascal.add_argument("--split", required=True, help="train, val, trainval or test")
    coco = kinds.add_parser("coco", help="an annotation file in COCO's format")
    coco.add_argument("annotations", help="the JSON file")
    coco.add_argument("images", help="the folder of the images")
    for files in (voc, pascal, coco):
        if counts_faults:
            files.set_defaults(on_error="skip")
            continue
        files.add_argument(
            "--on-error",
            choices=("raise", "skip"),
            default="raise",
            help="what to do about bad images and objects (raise)",
        )
    shapes = kinds.add_parser("shapes", help="synthetic pictures, as data=shapes has them")
    shapes.add_argument("--split", required=True, choices=SPLITS, help="which of the three")
    yield from (voc, pascal, coco, shapes)


def open_dataset(arguments: argparse.Namespace) -> DetectionDataset:
    """Open the data set that was named.

    Raises:
        DataError: as the class of the data set does.
    """
    match arguments.layout:
        case "voc":
            return VOCDataset(
                arguments.root, arguments.split, arguments.class_names, arguments.on_error
            )
        case "pascal":
            return pascal_voc(
                arguments.name, arguments.root, arguments.split, on_error=arguments.on_error
            )
        case "coco":
            return COCODataset(arguments.annotations, arguments.images, arguments.on_error)
        case _:
            return ShapesSource().dataset(arguments.split)


def split_name(arguments: argparse.Namespace) -> str:
    """Return the name of the split that was named; of COCO's annotations that of their file."""
    if arguments.layout == "coco":
        return Path(arguments.annotations).stem
    return str(arguments.split)
