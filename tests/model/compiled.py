"""Answers of compiled detectors for test_speed.py, from a process of its own.

The tests run under type checks that the compiler cannot trace. ``python compiled.py <function>
<arguments>`` prints what the function returns, as JSON, in the last line.
"""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from rcnn.app.processes import run_in_processes
from rcnn.data import ShapesSource
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposals import ProposalSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.speed import SpeedSettings, prepare, static_parts
from rcnn.model.targets import RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.structures import ImageBatch, Targets
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.callbacks import EMA

SEVERAL = [(2, 160, 192), (2, 192, 160), (2, 160, 224), (3, 224, 160), (2, 192, 192)]
SINGLE = [(1, 160, 192), (1, 192, 160), (1, 224, 224)]
"""Number of images, height and width of minibatches, padded to multiples of 32.

PyTorch compiles again where it chooses another kernel for a convolution: below 20480 numbers in
one image, and from 16 images or RoIs on.
"""


def small(backbone: str) -> DetectorSettings:
    """Return the settings of a detector with few RoIs and without dropout."""
    return DetectorSettings(
        ("circle", "square", "triangle"),
        images=ImageSettings(shorter_side=64, longer_side=64),
        backbone=BackboneSettings(
            backbone, norm="batch", frozen_stages=0, weights=None, hidden=8, dropout=0.0
        ),
        anchors=AnchorSettings((1.0,)),
        proposals=ProposalSettings(after_nms_train=64, after_nms_test=32),
        roi_sampling=RoISampling(samples=64),
    )


def losses_of(detector: FasterRCNN, images: int, height: int, width: int) -> dict[str, float]:
    """Return the losses of a minibatch of noise, in training mode after a backward pass."""
    generator = torch.Generator().manual_seed(images * height * width)
    size = torch.tensor([[height, width]]).expand(images, -1)
    pixels = torch.rand(images, 3, height, width, generator=generator)
    objects = torch.tensor([[[8.0, 8.0, 40.0, 40.0]]]).expand(images, -1, -1)
    nothing = torch.zeros(images, 1, dtype=torch.bool)
    targets = Targets(objects, torch.ones(images, 1).long(), nothing, nothing)
    batch = ImageBatch(pixels, size, size)
    if not detector.training:
        losses = detector.evaluation_outputs(batch, targets, generator).losses
    else:
        losses = detector.losses(batch, targets, generator)
        losses.total.backward()
    return {name: float(term.detach()) for name, term in losses.named.items()}


def graphs(backbone: str) -> dict[str, dict[str, int]]:
    """Return the number of compiled graphs of each part, after each kind of minibatch."""
    torch.manual_seed(0)
    settings = small(backbone)
    # Nothing is suppressed or too small, so that at least 16 RoIs are left, whatever the weights.
    full = replace(settings.proposals, nms_iou=1.0, min_size=0.0)
    detector = FasterRCNN(replace(settings, proposals=full))
    made = dict.fromkeys(static_parts(detector), 0)

    def counting(name: str) -> Callable[..., Any]:
        def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
            made[name] += 1
            return graph.forward

        return backend

    for name, part in static_parts(detector).items():
        part.compile(backend=counting(name), dynamic=True)
    answer = {}
    for training in (True, False):
        for kind, sizes in (("several", SEVERAL), ("single", SINGLE)):
            for size in sizes:
                losses_of(detector.train(training), *size)
            answer[f"{'training' if training else 'detecting'}, {kind}"] = dict(made)
    return answer


def losses(backbone: str) -> dict[str, list[dict[str, float]]]:
    """Return the losses of two minibatches in both modes, plain and by PyTorch's own compiler."""
    answer = {}
    for compiled in (False, True):
        torch.manual_seed(0)
        detector = FasterRCNN(small(backbone))
        prepare(detector, SpeedSettings(compile=compiled))
        answer["compiled" if compiled else "plain"] = [
            losses_of(detector.train(training), *size)
            for training in (True, False)
            for size in SEVERAL[:2]
        ]
    return answer


def train(folder: str, how: str) -> str:
    """Train in two processes, stop, resume, and write the weights; return the path of the file."""
    path = Path(folder, f"{how}.pt")
    # The processes look the function up by its module, which is not ``__main__`` there.
    run_in_processes(importlib.import_module("compiled")._train, (str(path), how), 2)
    return str(path)


def _train(path: str, how: str) -> None:
    checkpoint = Path(path).with_suffix(".ckpt")
    for epochs in (1, 2):
        torch.manual_seed(0)
        module = DetectionModule(small("resnet18"), speed=SpeedSettings(winograd=False))
        if how == "compiled":
            for part in static_parts(module.detector).values():
                part.compile(backend=lambda graph, _: graph.forward, dynamic=True)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            max_epochs=epochs,
            callbacks=[EMA()],
            logger=False,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        data = DetectionDataModule(
            ShapesSource(train=8, val=2, test=2, size=64), LoaderSettings(workers=0)
        )
        trainer.fit(module, data, ckpt_path=str(checkpoint) if epochs > 1 else None)
        trainer.save_checkpoint(checkpoint)
    if trainer.is_global_zero:
        torch.save(module.state_dict(), path)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])) + "\n")
