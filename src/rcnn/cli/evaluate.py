"""``rcnn evaluate``: test a checkpoint on a data set."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

import rcnn
from rcnn.cli.layouts import layouts, open_dataset
from rcnn.data import DetectionDataset
from rcnn.data.stored import StoredProposals, attach
from rcnn.files import write_json
from rcnn.model.build import needs_proposals
from rcnn.training import DetectionModule
from rcnn.training.evaluate import evaluate
from rcnn.view.scores import recall_line, score_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("checkpoint", help="a checkpoint that train.py wrote")
    for layout in layouts(parser):
        add_proposals(layout)
        layout.add_argument("--json", metavar="FILE", help="write all figures to it")
        layout.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (cpu)")
        layout.add_argument("--batch-size", type=int, default=2, help="images at once (2)")
        layout.add_argument("--workers", type=int, default=2, help="processes that decode (2)")


def add_proposals(parser: argparse.ArgumentParser) -> None:
    """Add the proposals that belong to a data set."""
    parser.add_argument(
        "--proposals",
        metavar="FILE",
        help="of the data set as `rcnn propose` makes it, for a detector that makes none itself",
    )
    parser.add_argument("--limit", type=int, default=2000, help="proposals of an image (2000)")


def run(arguments: argparse.Namespace) -> int:
    """Print the table of average precisions, and write all figures if that is wanted."""
    module = rcnn.load(arguments.checkpoint, device=arguments.device)
    dataset = open_for(module, arguments)
    found = evaluate(
        module,
        dataset,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        progress=True,
    )
    console = Console()
    console.print(score_table(found.metrics, found.per_class, "test"))
    console.print(recall_line(found.metrics, "test"), highlight=False)
    if arguments.json:
        record = {"checkpoint": str(Path(arguments.checkpoint)), "images": len(dataset)}
        write_json(arguments.json, record | asdict(found))
        console.print(f"Written: {arguments.json}", markup=False, soft_wrap=True, highlight=False)
    return 0


def open_for(module: DetectionModule, arguments: argparse.Namespace) -> DetectionDataset:
    """Open the data set that was named for a detector, with the proposals that it needs.

    The labels of a folder in VOC layout, which need not name its classes, are the detector's.

    Raises:
        ValueError: the detector needs proposals and there are none.
        DataError: the data set or the proposals are unsound, or do not fit each other.
    """
    named = vars(arguments)
    if named.get("class_names", ()) is None:
        arguments = argparse.Namespace(**{**named, "class_names": list(module.class_names)})
    dataset = open_dataset(arguments)
    if not needs_proposals(module.system):
        return dataset
    if arguments.proposals is None:
        raise ValueError(
            f"The detector, {module.system}, makes no proposals: give --proposals FILE, as "
            "`rcnn propose` makes it of the same data set."
        )
    return attach(dataset, StoredProposals(Path(arguments.proposals)), arguments.limit)


def parse_words(words: Iterable[str], prog: str) -> argparse.Namespace:
    """Read a data set, its split and its proposals from the words that name them."""
    parser = argparse.ArgumentParser(prog=prog)
    for layout in layouts(parser):
        add_proposals(layout)
    return parser.parse_args(list(words))
