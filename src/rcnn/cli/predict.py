"""``rcnn predict``: detect objects in pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

import rcnn
from rcnn.data import as_images
from rcnn.structures import Detections
from rcnn.view import draw_detections, to_pil

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("checkpoint", help="a checkpoint that train.py wrote")
    parser.add_argument("pictures", nargs="+", help="files, or folders of them")
    parser.add_argument("--out", default="predictions", help="folder of the drawn pictures")
    parser.add_argument("--score", type=float, default=0.5, help="least score (0.5)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (cpu)")


def run(arguments: argparse.Namespace) -> int:
    """Draw the detections of every picture, and write ``detections.json`` beside them."""
    module = rcnn.load(arguments.checkpoint, device=arguments.device)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with Progress() as bar:
        for path in bar.track(_files(arguments.pictures), description="predict"):
            image = as_images([path])[0]
            found = module.predict(image)
            to_pil(draw_detections(image, found, arguments.score)).save(out / f"{path.stem}.png")
            rows.append({"file": str(path), "detections": _plain(found, arguments.score)})
    (out / "detections.json").write_text(json.dumps(rows, indent=2) + "\n")
    count = sum(len(row["detections"]) for row in rows)
    Console().print(f"{count} detections in {len(rows)} pictures; see {out}")
    return 0


def _files(names: list[str]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path}: there is no such file or folder.")
    if not files:
        raise FileNotFoundError(f"There is no picture in {', '.join(names)}.")
    return files


def _plain(found: Detections, score: float) -> list[dict[str, Any]]:
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.names, strict=True)
    return [
        {"box": [round(x, 2) for x in box], "score": round(value, 4), "class": name}
        for box, value, name in rows
        if value >= score
    ]
