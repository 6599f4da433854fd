"""``rcnn compress``: truncated SVD of the fully connected layers of a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

import rcnn
from rcnn.cli.compression import point_table, write_curve
from rcnn.cli.data import open_for
from rcnn.cli.main import parse_data
from rcnn.cli.timed_images import timed_images
from rcnn.data import DetectionDataset
from rcnn.settings import require
from rcnn.training import DetectionModule
from rcnn.training.compression import Ranks, TailSVD, compress
from rcnn.training.compression_point import Point, measure_point
from rcnn.training.module import save
from rcnn.training.rank_search import search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("checkpoint", help="a checkpoint that train.py wrote")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the compressed checkpoint")
    parser.add_argument(
        "--curve",
        type=Path,
        metavar="FILE.png",
        help="draw mAP over time for several --ranks or --energy; the figures go to FILE.csv",
    )
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument(
        "--ranks",
        nargs=2,
        type=int,
        action="append",
        metavar=("FC6", "FC7"),
        help="such as 1024 256; 0 leaves a layer whole; for a curve give it several times",
    )
    choice.add_argument(
        "--energy",
        nargs="+",
        type=float,
        metavar="SHARE",
        help="the smallest ranks that keep this share of the squared singular values, in each "
        "layer; for a curve several",
    )
    choice.add_argument(
        "--milliseconds",
        type=float,
        metavar="MS",
        help="the ranks that lose the least while fc6 and fc7 take so long on this machine",
    )
    parser.add_argument("--rois", type=int, help="RoIs of an image for --milliseconds (as tested)")
    parser.add_argument("--pictures", nargs="+", default=[], help="to be timed (noise)")
    parser.add_argument("--repeats", type=int, default=5, help="timings; their median counts (5)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (cpu)")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (2)")
    parser.add_argument(
        "--data",
        nargs=argparse.REMAINDER,
        metavar="LAYOUT ...",
        help="test before and after on a data set, named as for `rcnn evaluate`: voc ROOT --split "
        "test; this comes last",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compress, measure, print one table, and write what is wanted."""
    _check(arguments)
    console = Console()
    module = rcnn.load(arguments.checkpoint, device=arguments.device)
    factors = TailSVD(module)
    dataset = _dataset(module, arguments.data)
    rois = arguments.rois or module.settings.proposals.after_nms_test
    batches = timed_images(module, arguments.pictures, dataset, rois)

    def measured(detector: DetectionModule) -> Point:
        return measure_point(
            detector, batches, dataset, repeats=arguments.repeats, workers=arguments.workers
        )

    points = [measured(module)]
    for ranks in _choices(arguments, module, factors, rois):
        compressed = compress(module, ranks, factors)
        points.append(measured(compressed))
    console.print(_title(arguments, len(batches)), highlight=False, soft_wrap=True)
    console.print(point_table(points))
    written = write_curve(points, arguments.curve) if arguments.curve else []
    if arguments.out:
        save(compressed.cpu(), arguments.out)
        written.append(arguments.out)
    for path in written:
        console.print(f"Written: {path}", markup=False, soft_wrap=True, highlight=False)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is computed."""
    several = len(arguments.ranks or arguments.energy or [None]) > 1
    out, curve = arguments.out, arguments.curve
    if out is None and curve is None:
        raise ValueError("Nothing would be written: give --out FILE, or --curve FILE.png.")
    if several and out is not None:
        raise ValueError("--out takes one compression, but there are several. Leave one of them.")
    if curve is not None and not arguments.data:
        raise ValueError("--curve draws mAP: give --data with the data set to test on.")
    if curve is not None and curve.suffix != ".png":
        raise ValueError(f"--curve {curve}: its name has to end in .png.")
    if out is not None and out.resolve() == Path(arguments.checkpoint).resolve():
        raise ValueError(f"--out {out} is the checkpoint itself: give the new one another name.")
    require(arguments.repeats >= 1, "repeats", arguments.repeats, "1 or more")
    require(arguments.rois is None or arguments.rois >= 1, "rois", arguments.rois, "1 or more")


def _dataset(module: DetectionModule, words: Sequence[str] | None) -> DetectionDataset | None:
    if not words:
        return None
    return open_for(module, parse_data(words, "rcnn compress ... --data"))


def _title(arguments: argparse.Namespace, images: int) -> str:
    noun = "image" if images == 1 else "images, one at a time"
    threads = f", {torch.get_num_threads()} threads" if arguments.device == "cpu" else ""
    times = f"Median of {arguments.repeats} timings" if arguments.repeats > 1 else "One timing"
    return f"{times} of {images} {noun}, on {arguments.device}{threads}"


def _choices(
    arguments: argparse.Namespace, module: DetectionModule, factors: TailSVD, rois: int
) -> list[Ranks]:
    if arguments.ranks:
        return [(first, second) for first, second in arguments.ranks]
    if arguments.energy:
        return [factors.ranks_for_energy(share) for share in arguments.energy]
    return [search(module, factors, rois, arguments.milliseconds / 1000)]
