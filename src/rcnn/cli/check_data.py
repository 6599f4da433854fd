"""``rcnn check-data``: the faults and the statistics of a data set."""

from __future__ import annotations

import argparse

from rich.console import Console

from rcnn.data import COCODataset, DetectionDataset, VOCDataset, check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="layout")
    voc = kinds.add_parser("voc", help="a folder with Annotations and JPEGImages")
    voc.add_argument("root", help="the folder")
    voc.add_argument("--split", default="all", help="a file in ImageSets/Main (all)")
    coco = kinds.add_parser("coco", help="an annotation file in COCO's format")
    coco.add_argument("annotations", help="the JSON file")
    coco.add_argument("images", help="the folder of the images")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; the exit status is 1 if the data has faults."""
    report = check(_open(arguments))
    Console().print(str(report), highlight=False, markup=False, soft_wrap=True)
    return 0 if report.is_sound else 1


def _open(arguments: argparse.Namespace) -> DetectionDataset:
    if arguments.kind == "voc":
        return VOCDataset(arguments.root, arguments.split, on_error="skip")
    return COCODataset(arguments.annotations, arguments.images, on_error="skip")
