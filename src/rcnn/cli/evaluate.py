"""``rcnn evaluate``: the average precision of a checkpoint on a data set."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from rich.console import Console

from rcnn.cli.data import open_for, split_name
from rcnn.cli.predict import load_module
from rcnn.files import write_json
from rcnn.training.evaluate import evaluate
from rcnn.view.scores import recall_line, score_table


def run(arguments: argparse.Namespace) -> int:
    """Print the table of average precisions, and write all figures if a file is named."""
    module = load_module(arguments.checkpoint, arguments.device)
    dataset = open_for(module, arguments)
    found = evaluate(
        module,
        dataset,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        progress=True,
    )
    # Names of classes may hold brackets and colons, which are neither markup nor emoji here.
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(score_table(found.metrics, found.per_class, "test"))
    sys.stdout.write(f"{recall_line(found.metrics, 'test')}\n")
    if arguments.json:
        record = {
            "checkpoint": arguments.checkpoint,
            "split": split_name(arguments),
            "images": len(dataset),
        }
        write_json(arguments.json, record | asdict(found))
        sys.stdout.write(f"Written: {arguments.json}\n")
    return 0
