"""``rcnn compress``: truncated SVD of the fully connected layers of a checkpoint."""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rcnn.cli.arguments import parse_data
from rcnn.cli.data import open_for
from rcnn.cli.predict import load_module
from rcnn.data import DetectionDataset, as_images, collate, resized
from rcnn.files import whole_file
from rcnn.inference.compress import BoxHeadSVD, Ranks, stage_seconds
from rcnn.model.build import needs_proposals
from rcnn.settings import require
from rcnn.structures import ImageBatch, Proposals
from rcnn.training import DetectionModule
from rcnn.training.evaluate import evaluate
from rcnn.training.module import save
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
    choices = _ranks(arguments, factors, rois)

    def measured(one: DetectionModule) -> Point:
        return _measure(one, batches, dataset, arguments.repeats, arguments.workers)

    points = [measured(module)]
    for ranks in choices:
        compressed = module.compressed(ranks, factors)
        points.append(measured(compressed))
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
    require(arguments.repeats >= 1, "repeats", arguments.repeats, "1 or more")
    require(arguments.rois is None or arguments.rois >= 1, "rois", arguments.rois, "1 or more")


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
    module: DetectionModule,
    pictures: Sequence[str],
    dataset: DetectionDataset | None,
    rois: int,
    seed: int = 0,
) -> list[ImageBatch]:
    """Return images one by one, on the module's device, with proposals if the detector makes none.

    They are the given pictures, else the first of a data set, else one of noise in the size that
    the detector works at. Proposals are those of the data set, else random boxes.

    Args:
        module: the detector.
        pictures: image files.
        dataset: data set with proposals, if the detector makes none.
        rois: number of random boxes of an image.
        seed: seed of noise and boxes.
    """
    settings = module.settings.images
    if dataset is not None and not pictures:
        sides = settings.shorter_side, settings.longer_side, settings.antialias
        samples = [dataset[index] for index in range(min(TIMED_IMAGES, len(dataset)))]
        return [
            collate([resized(sample, *sides)], settings.multiple).images.to(module.device)
            for sample in samples
        ]
    generator = torch.Generator().manual_seed(seed)
    size = settings.shorter_side, settings.longer_side
    noise = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    images = as_images(list(pictures)) if pictures else [noise]
    batches = [module.detector.transform.batch([image]) for image in images]
    if not needs_proposals(module.system):
        return batches
    boxes = [_random_boxes(image, rois, generator) for image in images]
    return [
        replace(batch, proposals=Proposals.pad([of_image], batch.scales))
        for of_image, batch in zip(boxes, batches, strict=True)
    ]


def _random_boxes(
    image: UInt8[Tensor, "3 h w"], count: int, generator: torch.Generator
) -> Float[Tensor, "R 4"]:
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values  # (R, corner, xy)
    height, width = image.shape[-2:]
    return (corners * torch.tensor([width, height])).flatten(1)


# --- results --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A detector at some ranks of fc6 and fc7.

    Attributes:
        ranks: ranks of fc6 and fc7, 0 for a whole layer.
        parameters: number of parameters of the whole detector.
        layer_parameters: number of parameters of fc6 and fc7.
        seconds: seconds per image of each stage.
        metrics: metrics by name, such as ``map_50``; empty where nothing was tested.
    """

    ranks: Ranks
    parameters: int
    layer_parameters: int
    seconds: Mapping[str, float]
    metrics: Mapping[str, float]

    @property
    def name(self) -> str:
        """The ranks in short."""
        if not any(self.ranks):
            return "whole"
        return "/".join("whole" if rank == 0 else str(rank) for rank in self.ranks)


def _measure(
    module: DetectionModule,
    batches: Sequence[ImageBatch],
    dataset: DetectionDataset | None,
    repeats: int,
    workers: int,
) -> Point:
    """Return the size and the times of a module, and its metrics if there is a data set."""
    found = {} if dataset is None else evaluate(module, dataset, workers=workers).metrics
    box_head = module.detector.get_submodule("roi_heads.box_head")
    return Point(
        ranks=module.settings.backbone.ranks or (0, 0),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        layer_parameters=sum(parameter.numel() for parameter in box_head.parameters()),
        seconds=stage_seconds(module.detector, batches, repeats),
        metrics={tag.removeprefix("test/"): value for tag, value in found.items()},
    )


def point_table(points: Sequence[Point]) -> Table:
    """Return a table with a column for each point, the first of which is the whole detector."""
    table = Table()
    table.add_column("fc6/fc7", no_wrap=True)
    for point in points:
        table.add_column(point.name, justify="right")
    table.add_row("parameters", *(_millions(point.parameters) for point in points))
    counts = (_millions(point.layer_parameters) for point in points)
    table.add_row("of fc6 and fc7", *counts, end_section=True)
    for stage in points[0].seconds:
        table.add_row(stage, *(_milliseconds(point.seconds.get(stage, 0.0)) for point in points))
    totals = (_milliseconds(sum(point.seconds.values())) for point in points)
    table.add_row("ms per image", *totals, style="bold", end_section=True)
    for name, (column, _) in COLUMNS.items():
        if any(name in point.metrics for point in points):
            table.add_row(column, *(figure(point.metrics.get(name, math.nan)) for point in points))
    return table


def write_curve(points: Sequence[Point], path: Path) -> list[Path]:
    """Draw the average precision over the time of the box head, and write all figures as CSV.

    The rest of the network is the same everywhere, so that its time would only add noise.

    Returns:
        The files written.
    """
    title, _ = COLUMNS["map"]
    marks = [(1000 * point.seconds["box head"], point.metrics["map"]) for point in points]
    line = sorted(marks)
    series = {"fc6/fc7": ([x for x, _ in line], [y for _, y in line])}
    series |= {point.name: ([x], [y]) for point, (x, y) in zip(points, marks, strict=True)}
    axis = "milliseconds of the box head (fc6, fc7 and outputs) per image"
    picture = plot_curves(series, "Truncated SVD of fc6 and fc7", axis, title)
    with whole_file(path) as partial:
        to_pil(picture).save(partial)
    sheet = path.with_suffix(".csv")
    with whole_file(sheet) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        rows = [_row(point) for point in points]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [path, sheet]


def _row(point: Point) -> dict[str, object]:
    first, second = point.ranks
    stages = point.seconds.items()
    return {
        "fc6_rank": first,
        "fc7_rank": second,
        "parameters": point.parameters,
        "fc6_fc7_parameters": point.layer_parameters,
        **{f"seconds_{stage.replace(' ', '_')}": seconds for stage, seconds in stages},
        "seconds": sum(point.seconds.values()),
        **{name: point.metrics.get(name, "") for name in COLUMNS},
    }


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
