"""The data sets that a command line names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rcnn.data import (
    AutoSource,
    COCODataset,
    CSVDataset,
    DetectionDataset,
    LabelmeDataset,
    ShapesSource,
    VOCDataset,
    YOLODataset,
    pascal_voc,
)
from rcnn.data.builder import Others
from rcnn.data.find_layout import find_layout
from rcnn.data.layouts import SOURCES
from rcnn.data.proposals import ProposedDataset, StoredProposals
from rcnn.data.splits import SPLITS
from rcnn.model.build import needs_proposals
from rcnn.training import DetectionModule


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
    chosen, policy = arguments.class_names, arguments.on_error
    others: Others = "drop" if chosen else "ignore"
    names = chosen or trained
    match arguments.layout:
        case "auto":
            source = AutoSource(arguments.root, class_names=names, on_error=policy)
            if any(isinstance(share, float) for share in source.layout.splits.values()):
                return source.dataset(arguments.split)
            return source.source.open(arguments.split, names, others)
        case "voc":
            return VOCDataset(arguments.root, arguments.split, names, policy, others=others)
        case "pascal":
            name, root, split = arguments.name, arguments.root, arguments.split
            return pascal_voc(name, root, split, on_error=policy, class_names=names, others=others)
        case "yolo":
            return YOLODataset(arguments.root, arguments.split, names, policy, others=others)
        case "csv":
            file, images = arguments.annotations, arguments.images
            return CSVDataset(file, images, names, policy, others=others)
        case "labelme":
            return LabelmeDataset(arguments.root, names, policy, others=others)
        case _:
            file, images = arguments.annotations, arguments.images
            return COCODataset(file, images, policy, class_names=names, others=others)


def open_splits(arguments: argparse.Namespace) -> dict[str, DetectionDataset]:
    """Open all splits of a folder, or the one that the arguments name.

    Raises:
        DataError: the data set is unsound.
    """
    if arguments.layout not in ("auto", "voc", "yolo") or arguments.split is not None:
        return {split_name(arguments): open_dataset(arguments)}
    root = Path(arguments.root)
    layout = find_layout(root, None if arguments.layout == "auto" else arguments.layout)
    source = SOURCES[layout.name](
        root,
        class_names=arguments.class_names,
        on_error=arguments.on_error,
        **{"val": None, "test": None, **layout.splits},  # type: ignore[arg-type]
    )
    return {split: source.dataset(split) for split in SPLITS if split in layout.splits}


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
    """Return the name of the split; without one, that of the file or the folder."""
    given = vars(arguments)
    return str(arguments.split or Path(given.get("annotations") or given["root"]).stem)


def data_words(arguments: argparse.Namespace) -> list[str]:
    """Return the overrides by which a training would get the settings that suit the layout."""
    if arguments.layout == "shapes":
        return ["data=shapes"]
    layout = "voc2007" if arguments.layout == "pascal" else arguments.layout
    return [f"data={layout}", "data.root=."]
