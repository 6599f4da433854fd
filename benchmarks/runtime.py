"""How both sides run: device, precision, memory format, compilation."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch
from torchvision.models.detection import FasterRCNN as TorchvisionRCNN

from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.speed import SpeedSettings, keep_freed_memory, prepare

Precision: TypeAlias = Literal["32", "bf16"]


@dataclass(frozen=True)
class Runtime:
    """Device and switches.

    Attributes:
        device: of both sides.
        precision: "32", or "bf16" for mixed precision.
        their_precision: of torchvision's side; None: the same.
        speed: of our side.
        both: torchvision's side has the memory format and the compilation of ours, too; otherwise
            it runs as its builders return it.
        clock: "wall", or "cpu" for the seconds of this process on all cores, which tell more on a
            machine that has other work to do.
    """

    device: torch.device
    precision: Precision = "32"
    speed: SpeedSettings = field(default_factory=SpeedSettings)
    both: bool = False
    clock: Literal["wall", "cpu"] = "wall"
    their_precision: Precision | None = None

    @property
    def theirs(self) -> Runtime:
        """How torchvision's side runs."""
        return replace(self, precision=self.their_precision or self.precision)

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Runtime:
        """Return what the command line says."""
        speed = SpeedSettings(
            channels_last=arguments.channels_last,
            winograd=arguments.winograd,
            fold_norms=arguments.fold_norms,
            compile=arguments.compile,
        )
        return cls(arguments.device, arguments.precision, speed, arguments.both, arguments.clock)

    def columns(self) -> dict[str, str | int | float]:
        """Return the switches as columns of a row."""
        formats = {True: "channels last", False: "contiguous"}
        compiled = {True: ", compiled", False: ""}
        shared = formats[self.speed.channels_last] + compiled[self.speed.compile]
        winograd = self.speed.winograd and self.device.type == "cpu" and self.precision == "32"
        ours = shared + ", Winograd" * winograd + ", norms folded" * self.speed.fold_norms
        return {
            "device": self.device.type,
            "precision": self.precision,
            "clock": self.clock,
            "rcnn runs": ours,
            "torchvision runs": (shared if self.both else formats[False])
            + f", precision {self.their_precision}" * (self.their_precision is not None),
        }

    def settle(self, detector: FasterRCNN, model: TorchvisionRCNN) -> None:
        """Apply the switches to ours and to torchvision's; freed memory is kept for both."""
        keep_freed_memory()
        prepare(detector, self.speed)
        if self.both and self.speed.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.both and self.speed.compile:
            heads = model.roi_heads
            for part in (model.backbone, model.rpn.head, heads.box_head, heads.box_predictor):
                part.compile(dynamic=True)

    def wait(self) -> None:
        """Let the device finish before a clock is read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self) -> float:
        """Read the clock."""
        return time.process_time() if self.clock == "cpu" else time.perf_counter()
