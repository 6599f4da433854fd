"""``rcnn propose``: a file of stored proposals for a data set."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from rcnn.cli.data import open_dataset, split_name
from rcnn.data import DetectionDataset
from rcnn.data.proposal_writer import import_json, import_mat
from rcnn.data.proposals import SUFFIX, StoredProposals, shard_folder
from rcnn.data.selective_search import SelectiveSearchSettings, opencv, propose_by_search
from rcnn.metrics import ProposalRecall
from rcnn.training import DetectionModule
from rcnn.training.propose import propose_with

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended

Maker = Callable[[DetectionDataset, Path], Path]


def run(arguments: argparse.Namespace) -> int:
    """Make the file, or go on with one that was interrupted; then measure it in one line."""
    make = _maker(arguments)
    path = _file(arguments)
    dataset = open_dataset(arguments)
    shards = shard_folder(path)
    resumed = shards.exists()
    start = time.perf_counter()
    try:
        make(dataset, path)
    except KeyboardInterrupt:
        left = (
            f"{shards} holds what is finished; the same command goes on with it."
            if shards.exists()
            else "nothing was written."
        )
        Console(stderr=True).print(f"Interrupted: {left}", markup=False, soft_wrap=True)
        return INTERRUPTED
    seconds = None if resumed else (time.perf_counter() - start) / len(dataset)
    Console().print(
        f"{_summary(dataset, StoredProposals(path), seconds)}; see {path}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


def _file(arguments: argparse.Namespace) -> Path:
    out = Path(arguments.out)
    if out.suffix == ".proposals":
        raise ValueError(
            f"--out {out}: files of proposals end with {SUFFIX}; write {out.with_suffix(SUFFIX)}"
        )
    return out if out.suffix == SUFFIX else out / f"{split_name(arguments)}{SUFFIX}"


def _maker(arguments: argparse.Namespace) -> Maker:
    """Return what makes the file; a missing package or checkpoint is an error here already."""
    match arguments.method:
        case "selective-search":
            opencv()
            settings = SelectiveSearchSettings(arguments.mode, limit=arguments.limit)
            return lambda data, path: propose_by_search(
                data, path, settings, workers=arguments.workers
            )
        case "rpn":
            module = DetectionModule.load_from_checkpoint(arguments.checkpoint, arguments.device)
            return lambda data, path: propose_with(
                module,
                data,
                path,
                limit=arguments.limit,
                batch_size=arguments.batch_size,
                workers=arguments.workers,
            )
        case "import-mat":
            return lambda data, path: import_mat(Path(arguments.file), data, path)
        case _:
            return lambda data, path: import_json(
                Path(arguments.file), data, path, absent_is_empty=arguments.absent_is_empty
            )


def _summary(dataset: DetectionDataset, stored: StoredProposals, seconds: float | None) -> str:
    """Return the number of proposals, their recall, and the seconds that an image took."""
    limit = max(1, int(stored.counts.max()))
    recall = ProposalRecall((limit,))
    for index, image_id in enumerate(dataset.image_ids):
        ground_truth = dataset.ground_truth(index)
        found = {"boxes": stored.boxes(image_id), "scores": stored.scores(image_id)}
        objects = {
            "boxes": ground_truth.boxes,
            "ignore": ground_truth.difficult,
            "crowd": ground_truth.crowd,
        }
        recall.update([found], [objects])
    covered = recall.compute()[f"recall_{limit}_50"]
    parts = [
        f"{len(dataset)} images",
        f"{stored.counts.mean():.1f} proposals per image",
        "no objects" if torch.isnan(covered) else f"recall {covered:.4f} at IoU 0.5",
    ]
    if stored.failed:
        parts.append(f"{len(stored.failed)} images could not be decoded and have no proposals")
    if seconds is not None:
        parts.append(f"{seconds:.3f} seconds per image")
    return ", ".join(parts)
