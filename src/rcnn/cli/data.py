"""The data sets that a command line names, and ``rcnn check-data``: their faults and statistics."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rcnn.data import COCODataset, DetectionDataset, ShapesSource, VOCDataset, check, pascal_voc
from rcnn.data.proposals import ProposedDataset, StoredProposals
from rcnn.model.build import needs_proposals
from rcnn.training import DetectionModule


def run(arguments: argparse.Namespace) -> int:
    """Print the report on a data set; the exit status is 1 if the data has faults."""
    report = check(open_dataset(arguments))
    sys.stdout.write(f"{report}\n")
    return 0 if report.is_sound else 1


def open_dataset(arguments: argparse.Namespace) -> DetectionDataset:
    """Open a data set by the arguments of ``rcnn.cli.arguments.layouts``.

    Raises:
        DataError: the data set is unsound.
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


def open_for(module: DetectionModule, arguments: argparse.Namespace) -> DetectionDataset:
    """Open a data set for a detector, with proposals if the detector makes none itself.

    The labels of a folder in VOC layout are the detector's, unless the arguments name the classes.

    Args:
        module: the detector.
        arguments: those of ``rcnn.cli.arguments.layouts`` and ``rcnn.cli.arguments.add_proposals``.

    Raises:
        ValueError: the detector needs proposals and no file is named.
        DataError: the data set or the proposals are unsound, or do not fit each other.
    """
    given = vars(arguments)
    if given.get("class_names", ()) is None:
        arguments = argparse.Namespace(**{**given, "class_names": list(module.class_names)})
    dataset = open_dataset(arguments)
    if not needs_proposals(module.system):
        return dataset
    if arguments.proposals is None:
        raise ValueError(
            f"The detector, {module.system}, makes no proposals: give --proposals FILE, which "
            "`rcnn propose` makes of the same data set."
        )
    return ProposedDataset(dataset, StoredProposals(Path(arguments.proposals)), arguments.limit)


def split_name(arguments: argparse.Namespace) -> str:
    """Return the name of the split; without one, that of COCO's annotation file."""
    return str(arguments.split or Path(arguments.annotations).stem)
