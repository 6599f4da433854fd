"""``rcnn check-data``: what is wrong with a data set, and with a detector's anchors for it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from PIL import Image

from rcnn.app.config import compose
from rcnn.app.errors import explained
from rcnn.cli.data import data_words, open_splits
from rcnn.cli.train import conf_folder
from rcnn.data import DataWarning
from rcnn.data.doctor import Diagnosis, diagnose
from rcnn.files import whole_file, write_json
from rcnn.model.anchors import AnchorGrid
from rcnn.model.build import build_detector, needs_proposals
from rcnn.model.settings import DetectorSettings
from rcnn.view.page import Page

SHOWN = 24  # pictures of a page
POINTS = 3000  # objects of a plot
LISTED = 200  # files of a finding


def run(arguments: argparse.Namespace) -> int:
    """Print the report; the exit status is 0 for sound data, 1 for warnings, 2 for errors."""
    with warnings.catch_warnings(action="ignore", category=DataWarning):  # the report has it all
        splits = open_splits(arguments)
        names = next(iter(splits.values())).class_names
        settings, strides = detector_of([*data_words(arguments), *arguments.overrides], names)
        diagnosis = diagnose(splits, settings, strides)
    title = " ".join([arguments.layout, str(getattr(arguments, "root", ""))]).strip()
    sys.stdout.write("\n".join(as_lines(diagnosis)) + "\n")
    if arguments.json is not None:
        write_json(arguments.json, as_plain(diagnosis))
    if arguments.html is not None:
        with whole_file(arguments.html) as partial:
            html = as_page(diagnosis, title, settings, strides).html()
            partial.write_text(html, encoding="utf-8")
    return diagnosis.exit_status


def detector_of(
    words: Sequence[str], class_names: tuple[str, ...]
) -> tuple[DetectorSettings, tuple[int, ...]]:
    """Return the settings that a training would have, and the strides of its anchors.

    Args:
        words: overrides of a training, such as ``backbone=vgg16``.
        class_names: names of the classes of the data.
    """
    with explained(conf_folder()):
        config = compose(words, conf_folder())
    backbone = replace(config.detector["backbone"], weights=None, norm="batch")
    settings = config.settings(class_names, backbone)
    if needs_proposals(config.system):
        return settings, ()
    with torch.device("meta"):  # only its strides are looked at
        detector = build_detector(config.system, settings)
    return settings, tuple(detector.backbone.strides)


def as_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield the report line by line."""
    for split, found in diagnosis.statistics.items():
        total = sum(found.objects.values())
        yield f"{split}: {found.images} images, {total} objects"
        yield f"  {found.difficult} difficult, {found.crowd} regions of many objects or ignored"
        width = max(map(len, found.objects))
        yield from (f"  {name:<{width}} {count:>8}" for name, count in found.objects.items())
        for what, values in (
            ("box size, sqrt(width x height) in pixels", found.box_sizes),
            ("box shape, height / width", found.box_shapes),
            ("objects per image", found.objects_per_image),
        ):
            row = ", ".join(f"{value:.3g}" for value in values) or "there are none"
            yield f"  {what} (smallest, 5 %, median, 95 %, largest): {row}"
    yield ""
    for finding in diagnosis.findings:
        yield f"{finding.severity.upper():<8}{finding.check}: {finding.message}"
        shown = finding.files[:5] if finding.severity != "info" else ()
        yield from (f"          {file}" for file in shown)
        if len(finding.files) > len(shown) > 0:
            yield f"          and {len(finding.files) - len(shown)} more"
    if diagnosis.anchors is not None:
        yield ""
        yield f"Anchors that reach more objects: {diagnosis.anchors.overrides}"


def as_plain(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the report as plain values, with all files of every finding."""
    better = diagnosis.anchors
    return {
        "exit_status": diagnosis.exit_status,
        "class_names": diagnosis.class_names,
        "statistics": {split: asdict(found) for split, found in diagnosis.statistics.items()},
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "anchor_fit": None if diagnosis.fit is None else asdict(diagnosis.fit),
        "anchors": None if better is None else {**asdict(better), "overrides": better.overrides},
    }


def as_page(
    diagnosis: Diagnosis, title: str, settings: DetectorSettings, strides: Sequence[int]
) -> Page:
    """Return the report as a page with plots and the pictures of the findings."""
    page = Page(f"Data set {title}")
    page.table(
        ("severity", "check", "what was found", "images"),
        [(f.severity, f.check, f.message, f"{len(f.files)}") for f in diagnosis.findings],
        mark=0,
    )
    if diagnosis.anchors is not None:
        page.heading("Anchors that reach more objects")
        page.code(diagnosis.anchors.overrides)
    for finding in diagnosis.findings:
        if finding.files:
            page.details(f"{finding.check}: {len(finding.files)} images", finding.files[:LISTED])
    for split, found in diagnosis.statistics.items():
        page.heading(f"{split}: {found.images} images, {sum(found.objects.values())} objects")
        page.bars(("class", "objects"), [(n, float(c)) for n, c in found.objects.items()])
    first = next(iter(diagnosis.surveys.values()))
    sides = (first.boxes[:, 2:] - first.boxes[:, :2])[~first.ignored]
    labels = first.labels[~first.ignored]
    step = max(len(sides) // POINTS, 1)
    points = zip(*sides[::step].unbind(1), labels[::step], strict=True)
    page.heading("Sizes of the objects in original pixels; squares: the anchors, scaled back")
    page.scatter(
        [(float(x), float(y), int(label)) for x, y, label in points],
        diagnosis.class_names,
        _anchors_in_original_pixels(diagnosis, settings, strides),
    )
    pictures = list(_pictures(diagnosis))
    if pictures:
        page.heading("Pictures of the errors and warnings")
    for caption, image in pictures:
        page.picture(image, caption)
    return page


def _anchors_in_original_pixels(
    diagnosis: Diagnosis, settings: DetectorSettings, strides: Sequence[int]
) -> list[tuple[float, float]]:
    """Return width and height of every template, for an image of the median size."""
    if not strides:
        return []
    first = next(iter(diagnosis.surveys.values()))
    sides = torch.tensor(first.dataset.sizes).float().median(0).values
    limits = settings.images
    scale = min(limits.shorter_side / float(sides.min()), limits.longer_side / float(sides.max()))
    grid = AnchorGrid(settings.anchors, strides)
    cells = [grid.get_buffer(f"cell{level}") for level in range(len(strides))]
    found = [(cell[:, 2:] - cell[:, :2]) / scale for cell in cells]
    return [(width, height) for width, height in torch.cat(found).tolist()]


def _pictures(diagnosis: Diagnosis) -> Iterator[tuple[str, Image.Image]]:
    """Yield caption and picture of the first images that errors and warnings name."""
    indices = {
        split.name(index): (split, index)
        for split in diagnosis.surveys.values()
        for index in range(len(split.dataset))
    }
    wanted: dict[str, str] = {}
    for finding in diagnosis.findings:
        if finding.severity != "info":
            for name in [part for file in finding.files for part in file.split(" = ")][:8]:
                wanted.setdefault(name, f"{finding.check}: {name}")
    readable = [name for name in wanted if name in indices]
    for name in readable[:SHOWN]:
        split, index = indices[name]
        if index not in split.faults:
            pixels = split.dataset[index].image.permute(1, 2, 0).numpy()
            yield wanted[name], Image.fromarray(pixels)
