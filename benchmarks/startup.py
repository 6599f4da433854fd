"""Waiting times: for help, for ``import rcnn``, and for the first step of the default run.

Every command runs in a process of its own, in turn with the others. The first step is timed from
the command ``python train.py`` to the end of the first minibatch, by a callback; logs and
checkpoints go to a temporary folder. "processor s" depend less than seconds on other programs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl

from benchmarks.pair import Row

REPOSITORY = Path(__file__).resolve().parents[1]
RCNN = "import sys; from rcnn.cli.main import main; sys.exit(main(sys.argv[1:]))"
FIRST_STEP = "first training step of train.py"

COMMANDS = {
    "python, nothing else": ["-c", ""],
    "import rcnn": ["-c", "import rcnn"],
    "rcnn --help": ["-c", RCNN, "--help"],
    "train.py --help": ["train.py", "--help"],
}


class FirstStep(pl.Callback):
    """A callback that records when the first minibatch is done.

    Args:
        file: JSON file for the time of the clock and the processor time of the process, in seconds.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_end(self, *_: Any) -> None:
        """Write the two times."""
        self.file.write_text(json.dumps([time.time(), time.process_time()]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, for the medians")
    parser.add_argument("overrides", nargs="*", help="of the run whose first step is timed")


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Return a row for each command."""
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(arguments.repeats):
        for name, words in COMMANDS.items():
            times.setdefault(name, []).append(time_command(words))
        times.setdefault(FIRST_STEP, []).append(time_first_step(arguments.overrides))
    return [
        {
            "what": name,
            "seconds": median(wall for wall, _ in pairs),
            "processor s": median(own for _, own in pairs),
        }
        for name, pairs in times.items()
    ]


def time_command(words: list[str]) -> tuple[float, float]:
    """Return the seconds and the processor seconds of a Python command.

    Raises:
        CalledProcessError: the command fails.
    """
    before, start = _children_seconds(), time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=True, capture_output=True)
    return time.perf_counter() - start, _children_seconds() - before


def time_first_step(overrides: list[str]) -> tuple[float, float]:
    """Return the seconds and processor seconds from the command to the end of the first minibatch.

    Raises:
        CalledProcessError: the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "first.json")
        words = [
            *("trainer.max_steps=1", "trainer.limit_val_batches=0", "trainer.limit_test_batches=1"),
            f"hydra.run.dir={folder}",
            f"+callbacks.first_step={{_target_: {__name__}.FirstStep, file: {file}}}",
        ]
        start = time.time()
        time_command(["train.py", *words, *overrides])
        end, own = json.loads(file.read_text())
    return end - start, own


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
