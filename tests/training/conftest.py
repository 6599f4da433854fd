"""A small detector and small data to train it on; a toy that trains in no time; two processes."""

import os
import socket
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from rcnn.data import DataSource, ShapesSource
from rcnn.data.proposal_writer import ProposalWriter
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.optim import AdamWCosine
from tests.training.toy import Batch, Batches, MakeTrainer, Numbers, Toy, TwoProcesses

NAMES = ("circle", "square", "triangle")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Lightning's advice is no failure."""
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*smaller than the logging interval.*",
            ".*recommended to use `self.log.*sync_dist.*",
            ".*custom batch sampler.*",
            ".*your dataloader is not resumable.*",
            ".*LeafSpec.* is deprecated",  # between Lightning and torch
            "Found .* module\\(s\\) in eval mode",
            "Total length of .* is zero",
            "Checkpoint directory .* is not empty",
            "You defined a `validation_step` but have no",
        ):
            warnings.filterwarnings("ignore", message)
        yield


@pytest.fixture
def settings() -> DetectorSettings:
    return DetectorSettings(
        NAMES,
        images=ImageSettings(shorter_side=64, longer_side=64),
        backbone=BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None),
        anchors=AnchorSettings(scales=(1.0, 2.0)),
        roi_sampling=RoISampling(samples=16),
    )


@pytest.fixture
def module(settings: DetectorSettings) -> DetectionModule:
    torch.manual_seed(0)
    return DetectionModule(settings, recipe=AdamWCosine(warmup_steps=1))


@pytest.fixture
def data() -> DetectionDataModule:
    source = ShapesSource(train=4, val=2, test=3, size=64)
    return DetectionDataModule(source, LoaderSettings(workers=0))


@pytest.fixture
def propose(tmp_path: Path) -> Callable[[DataSource], Path]:
    """Writes the proposals of all splits of a source: exactly the objects, in their order."""

    def write(source: DataSource) -> Path:
        folder = tmp_path / "proposals"
        folder.mkdir()
        for split in ("train", "val", "test"):
            dataset = source.dataset(split)
            path = folder / f"{split}.safetensors"
            with ProposalWriter(path, dataset, "the objects") as writer:
                for index, image_id in enumerate(dataset.image_ids):
                    writer.add(image_id, dataset.ground_truth(index).boxes)
                writer.finish()
        return folder

    return write


@pytest.fixture
def trainer(tmp_path: Path) -> MakeTrainer:
    """Makes silent trainers on the CPU that write into the test's folder."""

    def make(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
        defaults: dict[str, Any] = {
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(
            accelerator="cpu", devices=1, callbacks=list(callbacks), **(defaults | options)
        )

    return make


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def batches() -> Batches:
    """Makes a loader of minibatches; single values can be replaced."""

    def make(length: int = 4, instead: dict[int, float] | None = None) -> DataLoader[Batch]:
        return DataLoader(Numbers(length, instead or {}), batch_size=None)

    return make


# --- two processes ----------------------------------------------------------------------------


@pytest.fixture
def two_processes(tmp_path: Path) -> TwoProcesses:
    """Runs a program in two processes of one gloo group; returns exit status and output of each.

    The program finds its number in ``rank`` and the test's folder in ``folder``.
    """

    def run(program: str) -> list[tuple[int, str]]:
        head = "import os, sys, warnings\nwarnings.simplefilter('ignore')\n"
        head += f"rank, folder = int(os.environ['RANK']), {str(tmp_path)!r}\n"
        path = tmp_path / "program.py"
        path.write_text(head + textwrap.dedent(program))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        own |= {"NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                [sys.executable, str(path)],
                env={**os.environ, **own, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            outputs = [process.communicate(timeout=120)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        return [(process.wait(), text) for process, text in zip(started, outputs, strict=True)]

    return run
