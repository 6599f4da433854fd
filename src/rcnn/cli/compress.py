"""``rcnn compress``: truncated SVD of the fully connected layers of a checkpoint."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from rcnn.cli.arguments import parse_data
from rcnn.cli.data import open_for
from rcnn.cli.predict import load_module
from rcnn.data import DetectionDataset, as_images, collate, resized
from rcnn.files import whole_file
from rcnn.inference.compress import BoxHeadSVD, Ranks, stage_seconds
from rcnn.model.build import needs_proposals
from rcnn.structures import ImageBatch, Proposals
from rcnn.training import DetectionModule
from rcnn.training.checkpoints import save
from rcnn.training.evaluate import evaluate
from rcnn.view import plot_curves, to_pil
from rcnn.view.scores import COLUMNS, figure

TIMED_IMAGES = 4
"""Number of images of a data set that are timed."""


def run(arguments: argparse.Namespace) -> int:
    """Compress, measure, print one table, and write the files that are asked for."""
    _check(arguments)
    # torch's profiler would write the start and the end of every run to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    module = load_module(arguments.checkpoint, arguments.device)
    factors = BoxHeadSVD(module.detector)
    words = arguments.data
    dataset = open_for(module, parse_data(words, "rcnn compress ... --data")) if words else None
    rois = arguments.rois or module.settings.proposals.after_nms_test
    batches = timed_batches(module, arguments.pictures, dataset, rois)
    points, compressed = [], module
    for ranks in [None, *_ranks(arguments, factors, rois)]:
        compressed = module if ranks is None else module.compressed(ranks, factors)
        point = measure(compressed, batches, arguments.repeats)
        if dataset is not None:
            found = evaluate(compressed, dataset, workers=arguments.workers).metrics
            point |= {name: found[f"test/{name}"] for name in COLUMNS}
        points.append(point)
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(_title(arguments, len(batches)), soft_wrap=True)
    console.print(point_table(points))
    written = write_curve(points, arguments.curve) if arguments.curve else []
    if arguments.out:
        save(compressed.cpu(), arguments.out)
        written.append(arguments.out)
    for path in written:
        sys.stdout.write(f"Written: {path}\n")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse arguments that contradict each other, before anything is computed."""
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


def _ranks(arguments: argparse.Namespace, factors: BoxHeadSVD, rois: int) -> list[Ranks]:
    if arguments.ranks:
        return [(first, second) for first, second in arguments.ranks]
    if arguments.energy:
        return [factors.ranks_for_energy(share) for share in arguments.energy]
    return [factors.ranks_for_seconds(arguments.milliseconds / 1000, rois)]


def _title(arguments: argparse.Namespace, images: int) -> str:
    noun = "image" if images == 1 else "images, one at a time"
    threads = f", {torch.get_num_threads()} threads" if arguments.device == "cpu" else ""
    times = f"Median of {arguments.repeats} timings" if arguments.repeats > 1 else "One timing"
    return f"{times} of {images} {noun}, on {arguments.device}{threads}"


# --- images to time -------------------------------------------------------------------------


def timed_batches(
    module: DetectionModule, pictures: Sequence[str], dataset: DetectionDataset | None, rois: int
) -> list[ImageBatch]:
    """Return images one by one, on the module's device, with proposals if the detector makes none.

    They are the given pictures, else the first of a data set, else one of noise in the size that
    the detector works at. Proposals are those of the data set, else random boxes.

    Args:
        module: the detector.
        pictures: image files.
        dataset: data set with proposals, if the detector makes none.
        rois: number of random boxes of an image.
    """
    settings = module.settings.images
    if dataset is not None and not pictures:
        sides = settings.shorter_side, settings.longer_side, settings.antialias
        samples = [dataset[index] for index in range(min(TIMED_IMAGES, len(dataset)))]
        return [
            collate([resized(sample, *sides)], settings.multiple).images.to(module.device)
            for sample in samples
        ]
    generator = torch.Generator().manual_seed(0)
    size = settings.shorter_side, settings.longer_side
    noise = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    batches = []
    for image in as_images(list(pictures)) if pictures else [noise]:
        batch = module.detector.transform.batch([image])
        if needs_proposals(module.system):
            height, width = image.shape[-2:]
            corners = torch.rand(rois, 2, 2, generator=generator).sort(dim=1).values  # (R, 2, xy)
            boxes = (corners * torch.tensor([width, height])).flatten(1)
            batch = replace(batch, proposals=Proposals.pad([boxes], batch.scales))
        batches.append(batch)
    return batches


# --- results --------------------------------------------------------------------------------

Point = dict[str, int | float]
"""A detector at some ranks of fc6 and fc7.

The keys are ``fc6_rank`` and ``fc7_rank`` (0 for a whole layer), ``parameters`` of the whole
detector, ``fc6_fc7_parameters``, ``seconds_<stage>`` and ``seconds`` for an image, and metrics such
as ``map_50`` where a data set is tested.
"""


def measure(module: DetectionModule, batches: Sequence[ImageBatch], repeats: int) -> Point:
    """Return the ranks, the sizes and the times of a detector.

    Args:
        module: the detector.
        batches: images to time.
        repeats: number of timings, of which the median counts.
    """
    fc6_rank, fc7_rank = module.settings.backbone.ranks or (0, 0)
    box_head = module.detector.get_submodule("roi_heads.box_head")
    stages = stage_seconds(module.detector, batches, repeats)
    return {
        "fc6_rank": fc6_rank,
        "fc7_rank": fc7_rank,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "fc6_fc7_parameters": sum(parameter.numel() for parameter in box_head.parameters()),
        **{f"seconds_{stage.replace(' ', '_')}": seconds for stage, seconds in stages.items()},
        "seconds": sum(stages.values()),
    }


def point_table(points: Sequence[Point]) -> Table:
    """Return a table with a column for each point, the first of which is the whole detector."""
    table = Table()
    table.add_column("fc6/fc7", no_wrap=True)
    for point in points:
        table.add_column(_name(point), justify="right")

    def add_row(label: str, key: str, text: Callable[..., str], style: str | None = None) -> None:
        table.add_row(label, *(text(point.get(key, 0.0)) for point in points), style=style)

    add_row("parameters", "parameters", _millions)
    add_row("of fc6 and fc7", "fc6_fc7_parameters", _millions)
    table.add_section()
    for key in points[0]:
        if key.startswith("seconds_"):
            add_row(key.removeprefix("seconds_").replace("_", " "), key, _milliseconds)
    add_row("ms per image", "seconds", _milliseconds, style="bold")
    table.add_section()
    for key, (title, _) in COLUMNS.items():
        if key in points[0]:
            add_row(title, key, figure)
    return table


def write_curve(points: Sequence[Point], path: Path) -> list[Path]:
    """Draw the average precision over the time of the box head, and write all figures as CSV.

    The rest of the network is the same everywhere, so that its time would only add noise.

    Returns:
        The files written.
    """
    title, _ = COLUMNS["map"]
    marks = [(1000 * point["seconds_box_head"], point["map"]) for point in points]
    line = sorted(marks)
    series = {"fc6/fc7": ([x for x, _ in line], [y for _, y in line])}
    series |= {_name(point): ([x], [y]) for point, (x, y) in zip(points, marks, strict=True)}
    axis = "milliseconds of the box head (fc6, fc7 and outputs) per image"
    picture = plot_curves(series, "Truncated SVD of fc6 and fc7", axis, title)
    with whole_file(path) as partial:
        to_pil(picture).save(partial)
    sheet = path.with_suffix(".csv")
    with whole_file(sheet) as partial:
        pd.DataFrame(points).to_csv(partial, index=False)
    return [path, sheet]


def _name(point: Point) -> str:
    ranks = [point["fc6_rank"], point["fc7_rank"]]
    return "/".join(str(rank) if rank else "whole" for rank in ranks) if any(ranks) else "whole"


def _millions(count: int | float) -> str:
    return f"{count / 1e6:.2f} M"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
