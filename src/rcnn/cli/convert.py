"""``rcnn convert``: a data set in another layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rcnn.cli.data import open_splits
from rcnn.data import convert


def run(arguments: argparse.Namespace) -> int:
    """Write the data set, and say what the layout has no word for."""
    splits = open_splits(arguments)
    lost = convert(splits, arguments.to, Path(arguments.out))
    images = ", ".join(f"{split} {len(dataset)}" for split, dataset in splits.items())
    sys.stdout.write(f"{arguments.out}: {arguments.to}, images: {images}\n")
    for kind, count in (+lost).items():
        sys.stdout.write(
            f"Not written, because {arguments.to} has no word for it: {count} x {kind}\n"
        )
    return 0
