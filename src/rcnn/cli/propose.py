"""``rcnn propose``: a file of stored proposals for a data set."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console

from rcnn.cli.data import open_dataset, split_name
from rcnn.data import DetectionDataset
from rcnn.data.proposal_writer import import_json, import_mat
from rcnn.data.proposals import SUFFIX, StoredProposals, shard_folder
from rcnn.data.selective_search import SelectiveSearchSettings, propose_by_search
from rcnn.metrics import ProposalRecall
from rcnn.training import DetectionModule
from rcnn.training.propose import propose_with


def run(arguments: argparse.Namespace) -> int:
    """Make the file, or go on with one that was interrupted; then measure it in one line."""
    path = Path(arguments.out)
    if path.suffix != SUFFIX:
        path = path / f"{split_name(arguments)}{SUFFIX}"
    dataset = open_dataset(arguments)
    shards = shard_folder(path)
    resumed = shards.exists()
    start = time.perf_counter()
    try:
        _make(arguments, dataset, path)
    except KeyboardInterrupt:
        kept = f"{shards} holds what is finished; the same command goes on with it."
        left = kept if shards.exists() else "Nothing was written."
        Console(stderr=True).print(left, markup=False, soft_wrap=True)
        raise
    seconds = (time.perf_counter() - start) / len(dataset)
    summary = _summary(dataset, StoredProposals(path))
    # How long the images of an earlier command took is not known.
    rate = "" if resumed else f", {seconds:.3f} seconds per image"
    text = f"{summary}{rate}; see {path}"
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
    return 0


def _make(arguments: argparse.Namespace, dataset: DetectionDataset, path: Path) -> None:
    match arguments.method:
        case "selective-search":
            settings = SelectiveSearchSettings(arguments.mode, limit=arguments.limit)
            propose_by_search(dataset, path, settings, workers=arguments.workers)
        case "rpn":
            propose_with(
                DetectionModule.load_from_checkpoint(arguments.checkpoint, arguments.device),
                dataset,
                path,
                limit=arguments.limit,
                batch_size=arguments.batch_size,
                workers=arguments.workers,
            )
        case "import-mat":
            import_mat(Path(arguments.file), dataset, path)
        case _:
            absent_is_empty = arguments.absent_is_empty
            import_json(Path(arguments.file), dataset, path, absent_is_empty=absent_is_empty)


def _summary(dataset: DetectionDataset, stored: StoredProposals) -> str:
    """Return the number of proposals, and the share of the objects that they cover."""
    limit = max(1, int(stored.counts.max()))
    recall = ProposalRecall((limit,))
    for index, image_id in enumerate(dataset.image_ids):
        gt = dataset.ground_truth(index)
        found = {"boxes": stored.boxes(image_id), "scores": stored.scores(image_id)}
        objects = {"boxes": gt.boxes, "ignore": gt.difficult, "crowd": gt.crowd}
        recall.update([found], [objects])
    covered = recall.compute()[f"recall_{limit}_50"]
    parts = [
        f"{len(dataset)} images",
        f"{stored.counts.mean():.1f} proposals per image",
        "no objects" if torch.isnan(covered) else f"recall {covered:.4f} at IoU 0.5",
    ]
    if stored.failed:
        parts.append(f"{len(stored.failed)} images could not be decoded and have no proposals")
    return ", ".join(parts)
