"""``rcnn predict``: the objects in pictures; ``rcnn inspect``: every stage on one picture."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import rcnn
from rcnn.data import DataError, as_images
from rcnn.files import whole_file, write_json
from rcnn.model.build import needs_proposals
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.ops.deltas import decode
from rcnn.structures import Detections, ImageBatch
from rcnn.training import DetectionModule
from rcnn.view import (
    draw_detections,
    draw_proposals,
    draw_regression,
    image_of,
    stage_board,
    to_pil,
)

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""The endings of the files in a folder that are taken for pictures."""


def run(arguments: argparse.Namespace) -> int:
    """Detect, draw and list what is in every picture; the exit status is 1 if any is broken.

    ``detections.jsonl`` grows by a line as soon as a picture is done, so that an interrupted
    command leaves what it has found; ``detections.json`` holds the same list at the end.
    """
    module = load_module(arguments.checkpoint, arguments.device)
    if needs_proposals(module.system):
        raise ValueError(
            f"{arguments.checkpoint}: the detector, {module.system}, makes no proposals, and `rcnn "
            "predict` takes none. `rcnn evaluate ... --proposals FILE` tests it on a data set."
        )
    files, out = find_pictures(arguments.sources), Path(arguments.out)
    drawings = dict(zip(files, (out / name for name in name_drawings(files)), strict=True))
    _check_overwriting(drawings)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    with (out / "detections.jsonl").open("w") as lines, Progress(console=console) as bar:
        task = bar.add_task("predict", total=len(files))
        for first in range(0, len(files), arguments.batch_size):
            some = files[first : first + arguments.batch_size]
            images = {}
            for path in some:
                try:
                    images[path] = as_images([path])[0]
                except (DataError, Image.DecompressionBombError) as error:
                    console.print(f"Not read: {error}", soft_wrap=True)
            found = module.predict(
                list(images.values()), score=arguments.score, batch_size=len(some)
            )
            for (path, image), detections in zip(images.items(), found, strict=True):
                with whole_file(drawings[path]) as partial:
                    to_pil(draw_detections(image, detections, arguments.score)).save(partial)
                rows.append({"file": str(path), "detections": _plain(detections)})
                lines.write(f"{json.dumps(rows[-1])}\n")
                lines.flush()
            bar.advance(task, len(some))
    write_json(out / "detections.json", rows)
    count, broken = sum(len(row["detections"]) for row in rows), len(files) - len(rows)
    sys.stdout.write(f"{count} detections in {len(rows)} pictures; see {out}\n")
    if broken:
        sys.stderr.write(f"{broken} of {len(files)} pictures could not be read.\n")
    return 1 if broken else 0


def load_module(checkpoint: str, device: str) -> DetectionModule:
    """Return the module of a checkpoint on a device.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
        ValueError: there is no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise ValueError(f"--device {device} is not possible: {error}") from error
    return rcnn.load(checkpoint, device=device)


def find_pictures(sources: Sequence[str]) -> list[Path]:
    """Return the files that sources name, each once, the files of a folder by name.

    Hidden files of a folder are skipped; its subfolders are not searched.

    Raises:
        FileNotFoundError: a source does not exist, or is a folder without pictures.
    """
    files: dict[Path, Path] = {}
    for source in map(Path, sources):
        found = [source]
        if source.is_dir():
            found = sorted(
                file
                for file in source.iterdir()
                if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
            )
            if not found:
                raise FileNotFoundError(
                    f"{source}: there is no picture in this folder, no file that ends with "
                    f"{', '.join(ENDINGS)}."
                )
        elif not source.is_file():
            raise FileNotFoundError(f"{source}: there is no such file or folder.")
        for file in found:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def name_drawings(files: Sequence[Path]) -> list[Path]:
    """Return a relative path for the drawing of each picture, all of them different.

    The paths mirror those of the pictures below their common parent, with the ending .png. It
    replaces the picture's own ending where that leaves the names different, and else follows it.
    """
    absolute = [Path(os.path.abspath(file)) for file in files]  # noqa: PTH100 - keeps symlinks
    root = os.path.commonpath([file.parent for file in absolute])
    relative = [file.relative_to(root) for file in absolute]
    long = [path.with_name(f"{path.name}.png") for path in relative]
    short = [path.with_suffix(".png") for path in relative]
    # A file system may take A.png and a.png for one.
    taken = Counter(str(path).casefold() for path in (*short, *long))
    return [
        one if taken[str(one).casefold()] == 1 else other
        for one, other in zip(short, long, strict=True)
    ]


def _check_overwriting(drawings: dict[Path, Path]) -> None:
    """Refuse to draw over a file in a folder of pictures, which a drawing may be or not."""
    folders = {file.resolve().parent for file in drawings}
    for file, drawing in drawings.items():
        if drawing.exists() and drawing.resolve().parent in folders:
            raise ValueError(
                f"The drawing of {file} would overwrite {drawing}: give --out another folder than "
                "that of the pictures."
            )


def _plain(found: Detections) -> list[dict[str, Any]]:
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.names, strict=True)
    return [
        {"box": [round(x, 2) for x in box], "score": round(score, 4), "class": name}
        for box, score, name in rows
    ]


# --- inspect --------------------------------------------------------------------------------------


@torch.no_grad()
def inspect(arguments: argparse.Namespace) -> int:
    """Write one board: anchors, regressed anchors, proposals, detections."""
    module = load_module(arguments.checkpoint, "cpu")
    if not isinstance(module.detector, FasterRCNN):
        raise ValueError(
            f"{arguments.checkpoint}: the detector, {module.system}, has not both an RPN and RoI "
            "heads to look into. Give a checkpoint of model=faster_rcnn."
        )
    batch = module.detector.transform.batch(as_images([arguments.picture]))
    board = stage_board(stages(module.detector, batch, arguments.top), columns=2)
    with whole_file(arguments.out) as partial:
        to_pil(board).save(partial)
    sys.stdout.write(f"Written: {arguments.out}\n")
    return 0


def stages(
    detector: FasterRCNN, batch: ImageBatch, top: int
) -> list[tuple[str, UInt8[Tensor, "3 _ _"]]]:
    """Return a titled panel for each stage of a batch of one image.

    Args:
        detector: a detector in evaluation mode.
        batch: one image.
        top: number of boxes drawn of each stage, the best ones.
    """
    image = image_of(batch, 0)
    output = detector.rpn(detector.extract_features(batch), batch)
    logits = torch.cat(output.logits, dim=1)[0]
    deltas = torch.cat(output.deltas, dim=1)[0]
    best = logits.topk(min(top, len(logits))).indices
    anchors = output.anchors[best]
    regressed = decode(anchors, deltas[best])
    detections, proposals = detector.detect_batch(batch)
    scale = batch.scales[0].flip(0).repeat(2)  # (vertical, horizontal) -> x, y, x, y
    found = replace(detections[0], boxes=detections[0].boxes * scale)
    valid = proposals.valid[0]
    count = int(valid.sum())
    return [
        (f"The {len(best)} best anchors, regressed", draw_regression(image, anchors, regressed)),
        (
            "Before suppression",
            draw_proposals(image, regressed, logits[best].sigmoid(), limit=top),
        ),
        (
            f"Proposals, {min(top, count)} best of {count}",
            draw_proposals(image, proposals.boxes[0, valid], proposals.scores[0, valid], limit=top),
        ),
        ("Detections", draw_detections(image, found)),
    ]
