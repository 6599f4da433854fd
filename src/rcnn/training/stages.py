"""Products of a training in stages, each stored under a name that says what went into it.

A stage is found again only if everything that went into it is the same: settings, data, length,
seed, and the stages before it. So a run that was killed goes on where it stopped, a run of other
settings never takes a wrong product, and two runs that differ late share what they have in common.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from rcnn.data.splits import Split
from rcnn.inference.checkpoint import read_checkpoint
from rcnn.model.backbones import LoadedWeights
from rcnn.model.settings import ONLY_DETECTION, DetectorSettings, learned_with
from rcnn.model.speed import SpeedSettings
from rcnn.training.announcing import announce
from rcnn.training.datamodule import DetectionDataModule
from rcnn.training.module import DetectionModule
from rcnn.training.optim import Recipe
from rcnn.training.propose import propose_with
from rcnn.training.timing import timer_of

INPUTS, SPENT = "inputs.json", "spent.json"
"""In the folder of a stage: what went into it, and how long it took."""


class StageError(RuntimeError):
    """The folder of a stage is not what it should be."""


@dataclass(frozen=True)
class Stage:
    """One step of a training.

    Attributes:
        name: for people, such as ``1_rpn``.
        inputs: everything that changes its product, as plain numbers, strings, lists and mappings.
        parents: the stages whose products it starts from.
    """

    name: str
    inputs: Mapping[str, Any]
    parents: Sequence[Stage] = ()

    @property
    def record(self) -> str:
        """What went into it, as text, with the keys of the parents."""
        content = {"inputs": self.inputs, "parents": [parent.key for parent in self.parents]}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    @property
    def key(self) -> str:
        """Its name, and 12 hexadecimal digits that change with everything that went into it."""
        return f"{self.name}-{hashlib.sha256(self.record.encode()).hexdigest()[:12]}"


class StageStore:
    """The folder that holds the products of stages, finished or begun.

    Args:
        folder: made when needed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def find(self, stage: Stage) -> Path | None:
        """Return the folder of a finished stage, or None.

        Raises:
            StageError: if something else stands in it.
        """
        folder = self.folder / stage.key
        if not folder.exists():
            return None
        record = folder / INPUTS
        if not record.is_file() or record.read_text() != stage.record:
            raise StageError(
                f"{folder} is not the product of this stage: {INPUTS} is missing or tells of other "
                "settings. Delete the folder, or name another with scheme.store=..."
            )
        return folder

    def begin(self, stage: Stage) -> Path:
        """Return the folder to work in; what an interrupted run left in it is still there."""
        folder = self.folder / f"{stage.key}.partial"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INPUTS).write_text(stage.record)
        return folder

    def finish(self, stage: Stage, seconds: float) -> Path:
        """Give the folder its final name: from now on the stage is found.

        Args:
            stage: whose product is complete.
            seconds: that it took, for :meth:`seconds`.
        """
        folder = self.folder / stage.key
        partial = self.folder / f"{stage.key}.partial"
        (partial / SPENT).write_text(json.dumps({"seconds": seconds}) + "\n")
        partial.rename(folder)
        return folder

    def seconds(self, stage: Stage) -> float:
        """Return how long a finished stage took, whenever that was."""
        return float(json.loads((self.folder / stage.key / SPENT).read_text())["seconds"])

    def wait(self, stage: Stage, seconds: float = 0.5) -> Path:
        """Wait until another process has finished the stage."""
        while (folder := self.find(stage)) is None:
            time.sleep(seconds)
        return folder


PRODUCT, BEGUN = "module.ckpt", "last.ckpt"

MakeTrainer = Callable[[str, Path, int], pl.Trainer]
"""From a stage's name, the folder for ``last.ckpt`` and the number of steps to a trainer."""

MakeData = Callable[[Path | None], DetectionDataModule]
"""From a folder of stored proposals to the data of a step; None: the detector's own, if any."""

Kept = Callable[[str], bool]
"""Says of the name of a weight or a statistic whether it has to stay as it is."""


@dataclass(frozen=True)
class Plan:
    """What a training in stages is made of.

    Attributes:
        settings: of the detector that is the result.
        recipe: makes the optimiser of every step.
        weights: the pretrained network, or random weights, of the steps that start anew.
        steps: optimiser steps of each step.
        seed: of each step, so that a step does not depend on whether the one before it was run
            or found.
        inputs: everything else that changes a product, as plain values: data, optimiser, trainer.
        plus_one: VOC's metric counts pixels inclusively.
        device: of this process.
        leads: whether this process makes what only one has to make.
        speed: how the detectors of all steps are run.
    """

    settings: DetectorSettings
    recipe: Recipe
    weights: LoadedWeights
    steps: tuple[int, ...]
    seed: int
    inputs: dict[str, Any]
    plus_one: bool
    device: torch.device
    leads: bool
    speed: SpeedSettings


class StageRunner:
    """Trains steps and makes proposals, unless the store has them.

    Args:
        plan: what to train.
        store: where the products lie.
        make_data: see :data:`MakeData`.
        make_trainer: see :data:`MakeTrainer`.
    """

    def __init__(
        self, plan: Plan, store: StageStore, make_data: MakeData, make_trainer: MakeTrainer
    ) -> None:
        self.plan = plan
        self.store = store
        self.make_data = make_data
        self.make_trainer = make_trainer
        self.seconds = 0.0
        """Of all steps and of the proposals that they learn from, whenever they were made: what is
        found in the store counts as much as it took when it was made. What is lost by an
        interruption does not count, nor do proposals for a test."""
        self.log: list[str] = []
        """What was trained and what was found."""

    def step(self, name: str, number: int, *parents: Stage, **own: Any) -> Stage:
        """Return the stage of the training step of this number, from 0.

        Args:
            name: for people.
            number: which of the plan's numbers of optimiser steps holds.
            parents: the stages whose products it starts from.
            own: what else goes into it alone.
        """
        return self._stage(name, *parents, steps=self.plan.steps[number], **own)

    def proposals(self, name: str, parent: Stage, splits: Sequence[Split]) -> Stage:
        """Return the stage of the proposals of a trained network for some splits."""
        limits = self.plan.settings.proposals
        read = ONLY_DETECTION["proposals"] if set(splits) - {"train"} else ()
        own = {key: getattr(limits, key) for key in read}
        return self._stage(name, parent, splits=list(splits), **own)

    def _stage(self, name: str, *parents: Stage, **own: Any) -> Stage:
        inputs = {"settings": learned_with(self.plan.settings), "seed": self.plan.seed, **own}
        return Stage(name, {**self.plan.inputs, **inputs}, parents)

    def pretrained(self, system: str, settings: DetectorSettings | None = None) -> DetectionModule:
        """Return a module that starts from the plan's weights."""
        module = self.module(system, settings)
        self.plan.weights.load_into(module.detector.network)
        return module

    def module(self, system: str, settings: DetectorSettings | None = None) -> DetectionModule:
        """Return a module that starts at random, by default with the settings of the plan."""
        # The same weights whatever was drawn before: a step must not depend on what was found.
        pl.seed_everything(self.plan.seed, workers=True, verbose=False)
        plan = self.plan
        return DetectionModule(
            settings or plan.settings,
            system=system,
            recipe=plan.recipe,
            seed=plan.seed,
            plus_one=plan.plus_one,
            weights=plan.weights.source,
            speed=plan.speed,
        )

    def train(
        self,
        stage: Stage,
        start: Callable[[], DetectionModule],
        proposals: Path | None = None,
        kept: Kept = lambda _: False,
    ) -> Path:
        """Return the checkpoint of a step, trained now if it is not in the store.

        Args:
            stage: the step.
            start: makes the module that is trained.
            proposals: the folder of those that it learns from, if they are a stage's.
            kept: of what the proof is wanted that the step has not moved it.

        Raises:
            StageError: the step ended early, or has moved what it had to keep.
        """
        found = self.store.find(stage)
        if found is not None:
            self._tell_found(stage)
            self.seconds += self.store.seconds(stage)
            return found / PRODUCT
        folder = self.store.begin(stage)
        steps = stage.inputs["steps"]
        trainer = self.make_trainer(stage.name, folder, steps)
        module, data = start(), self.make_data(proposals)
        before = {name: value.clone() for name, value in module.state_dict().items() if kept(name)}
        begun, timer = folder / BEGUN, timer_of(trainer)
        trainer.fit(module, data, ckpt_path=begun if begun.is_file() else None)
        seconds = timer.time_elapsed()
        if trainer.global_step != steps:
            raise StageError(
                f"Step {stage.name} ended after {trainer.global_step} of {steps} optimiser steps, "
                "by trainer.max_time or a callback: its product would not be what its name says. "
                "Run the same command again to go on from its last epoch."
            )
        _require_unmoved(stage, before, module.state_dict())
        trainer.save_checkpoint(folder / PRODUCT)
        if trainer.is_global_zero:
            begun.unlink(missing_ok=True)
            self.store.finish(stage, seconds)
        self.seconds += seconds
        self._tell(f"{stage.name}: {steps} steps in {seconds:.0f} s, stored as {stage.key}")
        return self.store.wait(stage) / PRODUCT

    def propose(self, stage: Stage, checkpoint: Path) -> Path:
        """Return the folder of a network's proposals, made now if it is not in the store."""
        if self.store.find(stage) is not None:
            self._tell_found(stage)
        elif self.plan.leads:
            folder = self.store.begin(stage)
            module = DetectionModule.load_from_checkpoint(
                checkpoint, self.plan.device, speed=self.plan.speed
            )
            data, limits = self.make_data(None), self.plan.settings.proposals
            began = time.monotonic()
            for split in stage.inputs["splits"]:
                train = split == "train"
                propose_with(
                    module,
                    data.source.dataset(split),
                    folder / f"{split}.proposals",
                    before_nms=limits.before_nms_train if train else limits.before_nms_test,
                    limit=limits.after_nms_train if train else limits.after_nms_test,
                    batch_size=data.loader.eval_batch_size,
                    workers=data.loader.workers,
                )
            seconds = time.monotonic() - began
            self.store.finish(stage, seconds)
            self._tell(f"{stage.name}: {seconds:.0f} s, stored as {stage.key}")
        folder = self.store.wait(stage)
        if "train" in stage.inputs["splits"]:
            self.seconds += self.store.seconds(stage)
        return folder

    def _tell_found(self, stage: Stage) -> None:
        self._tell(f"{stage.name}: found as {stage.key}, {self.store.seconds(stage):.0f} s")

    def _tell(self, message: str) -> None:
        self.log.append(message)
        announce(message)


def tensors(checkpoint: Path, part: str = "") -> dict[str, Tensor]:
    """Return the weights of a product whose names begin with ``part``."""
    state = read_checkpoint(checkpoint)["state_dict"]
    return {name: tensor for name, tensor in state.items() if name.startswith(part)}


def _require_unmoved(stage: Stage, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Prove that what had to stay is what it was, bit by bit.

    Raises:
        StageError: naming the tensors that moved.
    """
    moved = [name for name, old in before.items() if not torch.equal(old, after[name].cpu())]
    if moved:
        raise StageError(
            f"Step {stage.name} has moved {len(moved)} of {len(before)} tensors that have to stay "
            f"as they are, such as {moved[0]}: the steps would no longer fit together. A callback "
            "or optimiser changes what does not require gradients."
        )
