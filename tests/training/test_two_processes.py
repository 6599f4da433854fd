"""Training on two devices is training on one with the minibatches of both.

Batch norms that learn would make a difference, because each process counts its own statistics: here
they are frozen. What a process samples depends on its rank, so the settings are such that every
anchor and every proposal is taken.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from rcnn.launch import run_in_processes

JOBS = '''
"""One step of a detector, on minibatches that are known by their numbers."""

import warnings

import pytorch_lightning as pl
import torch

from rcnn.data import collate
from rcnn.data.samples import Sample
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.images import ImageSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.structures import GroundTruth
from rcnn.training import DetectionModule

warnings.simplefilter("ignore")


def minibatch(number, objects):
    """Two noisy images with so many objects in each."""
    generator = torch.Generator().manual_seed(number)
    samples = []
    for image in range(2):
        corners = torch.rand(objects, 2, generator=generator) * 32
        sides = 16 + torch.rand(objects, 2, generator=generator) * 16
        no = torch.zeros(objects, dtype=torch.bool)
        ground_truth = GroundTruth(
            boxes=torch.cat([corners, corners + sides], dim=1),
            labels=torch.randint(1, 4, (objects,), generator=generator),
            difficult=no,
            crowd=no,
            areas=sides.prod(dim=1),
        )
        pixels = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        samples.append(Sample(pixels, ground_truth, f"{number}-{image}", original_size=(64, 64)))
    return collate(samples, multiple=16)


class Gradients(pl.Callback):
    """Keeps what the optimiser is given."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.kept = {
            name: weight.grad.clone()
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }


def step(minibatches, devices):
    """Return the gradients of one optimiser step on the minibatches of this process."""
    # DDP copies each gradient that lies otherwise in memory than its weight.
    warnings.filterwarnings("error", "Grad strides do not match")
    torch.manual_seed(0)
    module = DetectionModule(
        DetectorSettings(
            ("circle", "square", "triangle"),
            images=ImageSettings(shorter_side=64, longer_side=64),
            backbone=BackboneSettings("resnet18", norm="frozen", frozen_stages=0, weights=None),
            anchors=AnchorSettings(scales=(1.0, 2.0)),
            anchor_sampling=AnchorSampling(samples=256, skip_border_anchors=False),
            proposals=ProposalSettings(after_nms_train=20),
            roi_sampling=RoISampling(samples=512),
        )
    )
    gradients = Gradients()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        accumulate_grad_batches=len(minibatches),
        max_steps=1,
        callbacks=[gradients],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(minibatches, batch_size=None))
    return gradients.kept


def alone(objects):
    """Return the gradients of each minibatch, and of both in one step, all in one process."""
    both = [minibatch(number, count) for number, count in enumerate(objects)]
    return step(both[:1], 1), step(both[1:], 1), step(both, 1)


def together(folder, objects):
    """Write the gradients of a step in which each process has one of the minibatches."""
    import os

    rank = int(os.environ["RANK"])
    torch.save(step([minibatch(rank, objects[rank])], 2), f"{folder}/{rank}.pt")
'''


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "two_process_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "two_process_jobs", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return importlib.import_module("two_process_jobs")


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of a weight's gradients, in parts of the largest gradient there."""
    assert found.keys() == expected.keys()
    distances = [
        (found[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-12)
        for name, gradient in expected.items()
    ]
    return float(torch.stack(distances).max())


@pytest.mark.slow
@pytest.mark.parametrize("objects", [(3, 1), (3, 0)])
def test_two_processes_have_the_gradients_of_one_with_both_minibatches(
    objects: tuple[int, int], jobs: ModuleType, tmp_path: Path
) -> None:
    first, second, accumulated = run_in_processes(jobs.alone, (objects,), 1)
    run_in_processes(jobs.together, (str(tmp_path), objects), 2)
    of_ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    for gradients in of_ranks:
        assert furthest(gradients, mean) < 1e-5
    assert furthest(accumulated, mean) < 1e-5
    # Neither of them would do alone, and every layer learned something.
    assert min(furthest(one, mean) for one in (first, second)) > 0.1
    assert all(gradient.abs().max() > 0 for gradient in mean.values())
