"""The data sets that a command line names, and ``rcnn check-data``: their faults and statistics."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rcnn.data import (
    COCODataset,
    DataWarning,
    DetectionDataset,
    ShapesSource,
    VOCDataset,
    check,
    pascal_voc,
)
from rcnn.data.builder import Others
from rcnn.data.proposals import ProposedDataset, StoredProposals
from rcnn.model.build import needs_proposals
from rcnn.training import DetectionModule


def run(arguments: argparse.Namespace) -> int:
    """Print the report on a data set; the exit status is 1 if the data has faults."""
    with warnings.catch_warnings(action="ignore", category=DataWarning):  # the report has it all
        report = check(open_dataset(arguments))
    sys.stdout.write(f"{report}\n")
    return 0 if report.is_sound else 1


def open_dataset(
    arguments: argparse.Namespace, trained: Sequence[str] | None = None
) -> DetectionDataset:
    """Open a data set by the arguments of ``rcnn.cli.arguments.layouts``.

    Args:
        arguments: the arguments.
        trained: classes of a detector, by which the labels count unless the arguments name classes.

    Raises:
        DataError: the data set is unsound.
    """
    if arguments.layout == "shapes":
        return ShapesSource().dataset(arguments.split)
    chosen = getattr(arguments, "class_names", None)
    others: Others = "drop" if chosen else "ignore"
    names = chosen or trained
    match arguments.layout:
        case "voc":
            root, split = arguments.root, arguments.split
            return VOCDataset(root, split, names, arguments.on_error, others=others)
        case "pascal":
            return pascal_voc(
                arguments.name,
                arguments.root,
                arguments.split,
                on_error=arguments.on_error,
                class_names=names,
                others=others,
            )
        case _:
            file, images = arguments.annotations, arguments.images
            policy = arguments.on_error
            return COCODataset(file, images, policy, class_names=names, others=others)


def open_for(module: DetectionModule, arguments: argparse.Namespace) -> DetectionDataset:
    """Open a data set for a detector, with proposals if the detector makes none itself.

    The labels are the detector's, by the names of the classes, unless the arguments name the
    classes.

    Args:
        module: the detector.
        arguments: those of ``rcnn.cli.arguments.layouts`` and ``rcnn.cli.arguments.add_proposals``.

    Raises:
        ValueError: the detector needs proposals and no file is named.
        DataError: the data set or the proposals are unsound, or do not fit each other.
    """
    dataset = open_dataset(arguments, module.class_names)
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
