"""What can be found out before a training: a good learning rate, and the largest minibatch."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.tuner.tuning import Tuner

from rcnn.data import DetectionBatch, collate, resized
from rcnn.model.transform import ImageSettings
from rcnn.training.datamodule import DetectionDataModule
from rcnn.training.module import DetectionModule

MARGIN = 0.9
"""Share of a memory that a minibatch may fill: images differ in their objects."""


@dataclass(frozen=True)
class RateCurve:
    """The loss while the learning rate grows from step to step (Smith 2017, section 3.3).

    Attributes:
        rates: learning rate of each step.
        losses: running mean of the losses up to each step.
        suggestion: rate at which the loss falls fastest over powers of ten; None where it never
            falls.
    """

    rates: list[float]
    losses: list[float]
    suggestion: float | None


def rate_curve(
    trainer: pl.Trainer, module: DetectionModule, data: DetectionDataModule, lr: float, steps: int
) -> RateCurve:
    """Train from a thousandth of ``lr`` up to 1000 times it, or until the loss is 4 times its best.

    Args:
        trainer: trainer of at least ``steps`` steps.
        module: module, which has its weights back afterwards.
        data: training images.
        lr: middle of the range.
        steps: number of optimiser steps.
    """
    finder = Tuner(trainer).lr_find(
        module,
        datamodule=data,
        min_lr=lr / 1000,
        max_lr=lr * 1000,
        num_training=steps,
        update_attr=False,
    )
    assert finder is not None  # only None in a fast_dev_run
    losses = np.array(finder.results["loss"])
    rates = np.array(finder.results["lr"][: len(losses)])
    return RateCurve(rates.tolist(), losses.tolist(), steepest_fall(rates, losses))


def steepest_fall(rates: Float[np.ndarray, " N"], losses: Float[np.ndarray, " N"]) -> float | None:
    """Return the rate at which the loss falls fastest over the logarithm of the rate.

    Lightning's own suggestion is the steepest fall over the rate itself, which is at the low end of
    a range of many powers of ten. The first tenth of the steps, in which the mean is of few
    minibatches, and losses that are not finite do not count.
    """
    usable = np.isfinite(losses)
    usable[: len(losses) // 10] = False
    rates, losses = rates[usable], losses[usable]
    if len(losses) < 2:
        return None
    slopes = np.gradient(losses, np.log(rates))
    return float(rates[slopes.argmin()]) if slopes.min() < 0 else None


# --- size of a minibatch ------------------------------------------------------------------------


def largest_batch_size(step: Callable[[int], None], images: int, device: torch.device) -> int:
    """Return the largest number of images of a minibatch that fits into the memory of a device.

    It is extrapolated from the memory that the first few take. On a GPU a step then shows whether
    it fits; on a CPU one that does not would end the process.

    Args:
        step: function that trains on a minibatch of a number of images.
        images: number of images that there are.
        device: device that trains.
    """
    sizes, peaks = [size for size in (1, 2, 4) if size <= images], []
    for size in sizes:
        step(size)
        peaks.append(peak_memory(device))
    if len(sizes) == 1:
        return 1
    need = max(*np.diff(peaks) / np.diff(sizes), 1.0)
    size = min(images, sizes[-1] + int(MARGIN * free_memory(device) / need))
    while device.type != "cpu" and not _fits(step, size):
        size = int(MARGIN * size)
    return size


def _fits(step: Callable[[int], None], size: int) -> bool:
    try:
        step(size)
    except torch.OutOfMemoryError:
        return False
    finally:
        gc.collect()  # what the frames of a failed step held
        torch.cuda.empty_cache()
    return True


def peak_memory(device: torch.device) -> int:
    """Return the largest memory that this process has had, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # Unix only

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory(device: torch.device) -> int:
    """Return the memory that this process can still get, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if not meminfo.is_file():  # macOS says only how much there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit = group / "memory.max"
    if limit.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int((group / "memory.current").read_text()))
    return free


def largest_minibatch(
    data: DetectionDataModule, images: ImageSettings, size: int
) -> DetectionBatch:
    """Return a minibatch that is padded as much as any of the training split can be."""
    dataset = data.dataset("train")
    ratios, sides = dataset.aspect_ratios, data.augment.shorter_sides or (images.shorter_side,)
    # The longer side grows with the ratio up to its limit, and then the shorter one shrinks.
    longer = np.minimum(max(sides) * np.maximum(ratios, 1 / ratios), images.longer_side)
    shorter = longer / np.maximum(ratios, 1 / ratios)
    widest = int(np.where(ratios >= 1, longer, shorter).argmax())
    highest = int(np.where(ratios >= 1, shorter, longer).argmax())
    samples = [
        resized(dataset[index], max(sides), images.longer_side, images.antialias)
        for index in (widest, highest)
    ]
    return collate([samples[number % 2] for number in range(size)], images.multiple)
