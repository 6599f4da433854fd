"""``rcnn inspect``: every stage of a detector on one picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

import rcnn
from rcnn.data import as_images
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.ops.deltas import decode
from rcnn.structures import Detections, ImageBatch
from rcnn.view import (
    draw_detections,
    draw_proposals,
    draw_regression,
    image_of,
    stage_board,
    to_pil,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("checkpoint", help="a checkpoint that train.py wrote")
    parser.add_argument("picture", help="one picture")
    parser.add_argument("--out", default="stages.png", help="the file to write (stages.png)")
    parser.add_argument("--top", type=int, default=20, help="boxes drawn of each stage (20)")


@torch.no_grad()
def run(arguments: argparse.Namespace) -> int:
    """Write one board: anchors, regressed anchors, proposals, detections."""
    module = rcnn.load(arguments.checkpoint)
    if not isinstance(module.detector, FasterRCNN):
        raise ValueError(
            f"{arguments.checkpoint}: has no proposal network and box head to look into; its "
            f"system is {module.system}. Give a checkpoint of model=faster_rcnn."
        )
    batch = module.detector.transform.batch(as_images([arguments.picture]))
    board = stage_board(stages(module.detector, batch, arguments.top), columns=2)
    to_pil(board).save(arguments.out)
    Console().print(f"Wrote {Path(arguments.out)}")
    return 0


def stages(detector: FasterRCNN, batch: ImageBatch, top: int) -> list[tuple[str, torch.Tensor]]:
    """Return a titled panel for each stage of a batch of one image.

    Args:
        detector: in evaluation mode.
        batch: one image.
        top: how many boxes of each stage are drawn, the best ones.
    """
    image = image_of(batch, 0)
    output = detector.rpn(detector.extract_features(batch), batch)
    logits = torch.cat(output.logits, dim=1)[0]
    deltas = torch.cat(output.deltas, dim=1)[0]
    best = logits.topk(min(top, len(logits))).indices
    anchors = output.anchors[best]
    regressed = decode(anchors, deltas[best])
    detections, proposals = detector.detect_batch(batch)
    scale = batch.scales[0].flip(0).repeat(2)
    found = Detections(
        detections[0].boxes * scale,
        detections[0].scores,
        detections[0].labels,
        detections[0].class_names,
    )
    kept = proposals.valid[0]
    return [
        (f"The {len(best)} best anchors, regressed", draw_regression(image, anchors, regressed)),
        (
            "Before suppression",
            draw_proposals(image, regressed, logits[best].sigmoid(), limit=top),
        ),
        (
            f"Proposals, {min(top, int(kept.sum()))} best of {int(kept.sum())}",
            draw_proposals(image, proposals.boxes[0, kept], proposals.scores[0, kept], limit=top),
        ),
        ("Detections", draw_detections(image, found)),
    ]
