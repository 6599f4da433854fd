"""Quality on real images: ours and torchvision's detector on the same budget.

``python -m benchmarks.quality --root <folder of bccd> --seeds 0 1`` trains each detector as
``experiment=bccd`` says (data, sizes, epochs, optimiser), one run after the other, and writes the
test figures of every run to ``benchmarks/results/quality_bccd.json`` as soon as it has ended.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.baseline import TorchvisionModule
from benchmarks.peers import c4_detector
from rcnn.app.config import Config, parse, register_schema
from rcnn.app.run import build_data, build_module, environment, silence_warnings
from rcnn.files import write_json

REPOSITORY = Path(__file__).parents[1]
FIGURES = ("map", "map_50", "map_75", "voc_map", "voc07_map")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the folder of bccd")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--detectors", nargs="+", default=["rcnn", "torchvision"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--out", default=str(REPOSITORY / "benchmarks/results/quality_bccd.json"))
    arguments = parser.parse_args()
    silence_warnings()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        for detector in arguments.detectors:
            row = train(detector, arguments.root, seed, arguments.epochs)
            _append(Path(arguments.out), row)
            print(json.dumps(row))


def train(detector: str, root: str, seed: int, epochs: int) -> dict[str, Any]:
    """Train one detector from random weights and return its figures on the test split."""
    config = _config(root, seed, epochs)
    pl.seed_everything(seed, workers=True, verbose=False)
    data = build_data(config)
    ours = build_module(config, data)
    if detector == "rcnn":
        module: pl.LightningModule = ours
    else:
        pl.seed_everything(seed, workers=True, verbose=False)
        module = TorchvisionModule(c4_detector(ours.settings), ours.settings, ours.recipe)
    trainer = instantiate(
        config.plain["trainer"], logger=False, enable_checkpointing=False, _convert_="all"
    )
    start = time.monotonic()
    trainer.fit(module, data)
    seconds = time.monotonic() - start
    trainer.test(module, data, verbose=False)
    return {
        "detector": detector,
        "seed": seed,
        "epochs": epochs,
        "steps": trainer.global_step,
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        **{name: float(trainer.callback_metrics[f"test/{name}"]) for name in FIGURES},
        "per_class": {name: row["map"] for name, row in module.per_class["test"].items()},
    }


def _config(root: str, seed: int, epochs: int) -> Config:
    overrides = [
        "experiment=bccd",
        f"data.root={root}",
        f"seed={seed}",
        f"trainer.max_epochs={epochs}",
        "run_dir=unused",
        "name=unused",
    ]
    register_schema()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        composed = compose("config", overrides=overrides)
    return parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]


def _append(path: Path, row: dict[str, Any]) -> None:
    runs = json.loads(path.read_text())["runs"] if path.is_file() else []
    write_json(path, {"runs": [*runs, {**row, "environment": environment()}]})


if __name__ == "__main__":
    main()
