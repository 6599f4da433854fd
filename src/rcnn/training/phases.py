"""Products of a training in phases, each stored under a name that says what went into it.

A product is found again only if everything that went into it is the same: settings, data, length,
seed, and the products before it. So a run that was killed goes on where it stopped, a run of other
settings never takes a wrong product, and two runs that differ late share what they have in common.
With several processes the first one alone looks into the store, finishes products and proposes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from rcnn.data.splits import Split
from rcnn.inference.checkpoint import read_checkpoint
from rcnn.model.backbones import LoadedWeights
from rcnn.model.settings import ONLY_DETECTION, DetectorSettings, training_settings
from rcnn.model.speed import SpeedSettings
from rcnn.training.datamodule import DetectionDataModule
from rcnn.training.module import DetectionModule
from rcnn.training.optim import Recipe
from rcnn.training.progress import rank_zero_info, timer_of
from rcnn.training.propose import propose_with

T = TypeVar("T")

INPUTS, SPENT = "inputs.json", "spent.json"
"""Files in the folder of a phase: what went into it, and how long it took."""

PRODUCT, BEGUN = "module.ckpt", "last.ckpt"
"""Files in the folder of a training phase: its result, and where an interrupted one goes on."""


class PhaseError(RuntimeError):
    """The folder of a phase is not what it should be."""


@dataclass(frozen=True)
class Phase:
    """One phase of a training.

    Attributes:
        name: for people, such as ``1_rpn``.
        inputs: everything that changes its product, as plain numbers, strings, lists and mappings.
        parents: the phases whose products it starts from.
    """

    name: str
    inputs: Mapping[str, Any]
    parents: Sequence[Phase] = ()

    @property
    def record(self) -> str:
        """What went into it, as text, with the keys of the parents."""
        content = {"inputs": self.inputs, "parents": [parent.key for parent in self.parents]}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    @property
    def key(self) -> str:
        """Its name, and 12 hexadecimal digits that change with everything that went into it."""
        return f"{self.name}-{hashlib.sha256(self.record.encode()).hexdigest()[:12]}"


class PhaseStore:
    """The folder that holds the products of phases, finished or begun.

    Args:
        folder: made when needed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def find(self, phase: Phase) -> Path | None:
        """Return the folder of a finished phase, or None.

        Raises:
            PhaseError: if something else stands in it.
        """
        folder = self.folder / phase.key
        if not folder.exists():
            return None
        record = folder / INPUTS
        if not record.is_file() or record.read_text() != phase.record:
            raise PhaseError(
                f"{folder} is not the product of this phase: {INPUTS} is missing or tells of other "
                "settings. Delete the folder, or name another with scheme.store=..."
            )
        return folder

    def begin(self, phase: Phase) -> Path:
        """Return the folder to work in; what an interrupted run left in it is still there."""
        folder = self.folder / f"{phase.key}.partial"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INPUTS).write_text(phase.record)
        return folder

    def finish(self, phase: Phase, seconds: float) -> Path:
        """Give the folder its final name: from now on the phase is found.

        Args:
            phase: whose product is complete.
            seconds: that it took, for ``seconds``.
        """
        folder = self.folder / phase.key
        partial = self.folder / f"{phase.key}.partial"
        (partial / SPENT).write_text(json.dumps({"seconds": seconds}) + "\n")
        partial.rename(folder)
        return folder

    def seconds(self, phase: Phase) -> float:
        """Return how long a finished phase took, whenever that was."""
        return float(json.loads((self.folder / phase.key / SPENT).read_text())["seconds"])


def connect_processes(trainer: pl.Trainer) -> None:
    """Let the processes of a run find each other before the first training does it."""
    if trainer.world_size > 1:
        trainer.strategy.setup_environment()


class FirstProcess:
    """Does in the first process what only one may do, and gives the result to all.

    Every process makes one, after ``connect_processes``.

    Args:
        limit: longest time that the others wait for one piece of work.
    """

    def __init__(self, limit: timedelta) -> None:
        self.limit = limit
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        # Under NCCL a waiting process would keep its GPU busy, and gloo keeps to the limit.
        self._group: Any = (
            torch.distributed.new_group(backend="gloo", timeout=limit) if distributed else None
        )

    def does(self, what: str, work: Callable[[], T]) -> T:
        """Return the result of ``work``, which the first process alone executes.

        Args:
            what: name of the work, for messages.
            work: function without arguments; its result can be pickled.

        Raises:
            PhaseError: in the other processes, if the first one failed, has ended, or took longer
                than the limit. In the first process the error of ``work`` itself is raised.
        """
        if self._group is None:
            return work()
        outcome: list[tuple[T | None, str | None]] = [(None, None)]
        if self.rank == 0:
            try:
                outcome[0] = (work(), None)
            except Exception as error:
                self._share([(None, f"{type(error).__name__}: {error}")])
                raise
        try:
            self._share(outcome)
        except RuntimeError as error:
            raise PhaseError(
                f"Rank {self.rank} waited for rank 0, which did not finish {what}: it has ended, "
                f"or took longer than {self.limit}. Its own output says more. ({error})"
            ) from error
        result, failure = outcome[0]
        if failure is not None:
            raise PhaseError(f"Rank 0 failed at {what}; rank {self.rank} ends, too. {failure}")
        return result  # type: ignore[return-value]  # None only where the work returns it

    def _share(self, outcome: list[Any]) -> None:
        torch.distributed.broadcast_object_list(outcome, src=0, group=self._group)


MakeTrainer = Callable[[str, Path, int], pl.Trainer]
"""Returns a trainer for a phase's name, the folder for ``last.ckpt`` and a number of steps."""

MakeData = Callable[[Path | None], DetectionDataModule]
"""Returns the data of a phase for a folder of stored proposals; None: the detector's own."""

Kept = Callable[[str], bool]
"""Returns whether the weight or statistic of a name has to stay as it is."""


@dataclass(frozen=True)
class Plan:
    """Everything that a training in phases depends on.

    Attributes:
        settings: settings of the detector that is the result.
        recipe: factory of the optimiser of every phase.
        weights: pretrained or random weights of the phases that start from no other phase.
        steps: optimiser steps of each step.
        seed: seed of each phase, so that a phase does not depend on whether the one before it was
            run or found.
        inputs: everything else that changes a product, as plain values: data, optimiser, trainer.
        plus_one: whether VOC's metric counts pixels inclusively.
        device: device of this process.
        speed: how the detectors of all phases are run.
        limit: longest time that the other processes wait for the first one.
    """

    settings: DetectorSettings
    recipe: Recipe
    weights: LoadedWeights
    steps: tuple[int, ...]
    seed: int
    inputs: dict[str, Any]
    plus_one: bool
    device: torch.device
    speed: SpeedSettings
    limit: timedelta = timedelta(days=2)


class PhaseRunner:
    """Trains phases and makes proposals, unless the store has them.

    Args:
        plan: everything that the training depends on.
        store: folder of the products.
        make_data: factory of a phase's data, see ``MakeData``.
        make_trainer: factory of a phase's trainer, see ``MakeTrainer``.
    """

    def __init__(
        self, plan: Plan, store: PhaseStore, make_data: MakeData, make_trainer: MakeTrainer
    ) -> None:
        self.plan = plan
        self.store = store
        self.make_data = make_data
        self.make_trainer = make_trainer
        self.first = FirstProcess(plan.limit)
        self.seconds = 0.0
        """Time of all phases and of the proposals that they learn from: what is found in the store
        counts as much as it took when it was made. What is lost by an interruption does not count,
        nor do proposals for a test."""
        self.log: list[str] = []
        """Sentences on what was trained and what was found."""

    def training(
        self, name: str, number: int, *parents: Phase, own: Mapping[str, Any] | None = None
    ) -> Phase:
        """Return the phase of a training.

        Args:
            name: name for people.
            number: index of the step in the plan's numbers of optimiser steps.
            parents: phases with the products it starts from.
            own: inputs of this phase alone.
        """
        inputs = {"steps": self.plan.steps[number], **(own or {})}
        return self._stage(name, parents, inputs)

    def proposals(self, name: str, parent: Phase, splits: Sequence[Split]) -> Phase:
        """Return the phase of the proposals of a trained network for some splits."""
        limits = self.plan.settings.proposals
        read = ONLY_DETECTION["proposals"] if set(splits) - {"train"} else ()
        own = {key: getattr(limits, key) for key in read}
        return self._stage(name, (parent,), {"splits": list(splits), **own})

    def _stage(self, name: str, parents: Sequence[Phase], own: Mapping[str, Any]) -> Phase:
        inputs = {"settings": training_settings(self.plan.settings), "seed": self.plan.seed, **own}
        return Phase(name, {**self.plan.inputs, **inputs}, parents)

    def pretrained(self, system: str, settings: DetectorSettings | None = None) -> DetectionModule:
        """Return a module that starts from the plan's weights."""
        module = self.module(system, settings)
        self.plan.weights.load_into(module.detector.network)
        return module

    def module(self, system: str, settings: DetectorSettings | None = None) -> DetectionModule:
        """Return a module that starts at random, by default with the settings of the plan."""
        # The same weights whatever was drawn before: a phase must not depend on what was found.
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
        phase: Phase,
        start: Callable[[], DetectionModule],
        proposals: Path | None = None,
        kept: Kept = lambda _: False,
    ) -> Path:
        """Return the checkpoint of a phase, trained now if it is not in the store.

        Args:
            phase: phase that trains.
            start: factory of the module that is trained.
            proposals: folder of the proposals that it learns from, if they are a phase's.
            kept: which tensors the phase has to leave as they are, which is then proved.

        Raises:
            PhaseError: the phase ended early, has moved what it had to keep, or rank 0 failed.
        """
        found = self._found(phase)
        if found is not None:
            self.seconds += found
            return self.store.folder / phase.key / PRODUCT
        folder = self.store.begin(phase)
        steps = phase.inputs["steps"]
        trainer = self.make_trainer(phase.name, folder, steps)
        module, data = start(), self.make_data(proposals)
        before = {name: value.clone() for name, value in module.state_dict().items() if kept(name)}
        begun, timer = folder / BEGUN, timer_of(trainer)
        trainer.fit(module, data, ckpt_path=begun if begun.is_file() else None)
        seconds = timer.time_elapsed()
        if trainer.global_step != steps:
            raise PhaseError(
                f"Phase {phase.name} ended after {trainer.global_step} of {steps} optimiser steps, "
                "by trainer.max_time or a callback: its product would not be what its name says. "
                "Run the same command again to go on from its last epoch."
            )
        _require_unmoved(phase, before, module.state_dict())
        trainer.save_checkpoint(folder / PRODUCT)

        def finish() -> Path:
            begun.unlink(missing_ok=True)
            return self.store.finish(phase, seconds)

        finished = self.first.does(f"storing phase {phase.name}", finish)
        self.seconds += seconds
        self._tell(f"{phase.name}: {steps} steps in {seconds:.0f} s, stored as {phase.key}")
        return _visible(finished / PRODUCT)

    def propose(self, phase: Phase, checkpoint: Path) -> Path:
        """Return the folder of a network's proposals, made now if it is not in the store.

        Raises:
            PhaseError: rank 0 failed, or the folder is not this phase's.
        """
        seconds = self._found(phase)
        if seconds is None:
            seconds = self.first.does(
                f"the proposals of {phase.name}", lambda: self._propose(phase, checkpoint)
            )
            self._tell(f"{phase.name}: {seconds:.0f} s, stored as {phase.key}")
        if "train" in phase.inputs["splits"]:
            self.seconds += seconds
        return _visible(self.store.folder / phase.key)

    def _propose(self, phase: Phase, checkpoint: Path) -> float:
        """Make and store the proposals, and return the seconds that it took."""
        folder = self.store.begin(phase)
        module = DetectionModule.load_from_checkpoint(
            checkpoint, self.plan.device, speed=self.plan.speed
        )
        data, limits = self.make_data(None), self.plan.settings.proposals
        began = time.monotonic()
        for split in phase.inputs["splits"]:
            train = split == "train"
            propose_with(
                module,
                data.source.dataset(split),
                folder / f"{split}.safetensors",
                before_nms=limits.before_nms_train if train else limits.before_nms_test,
                limit=limits.after_nms_train if train else limits.after_nms_test,
                batch_size=data.loader.eval_batch_size,
                workers=data.loader.workers,
            )
        seconds = time.monotonic() - began
        self.store.finish(phase, seconds)
        return seconds

    def _found(self, phase: Phase) -> float | None:
        """Return the seconds that a stored phase took, or None if it is not in the store."""

        def look() -> float | None:
            return None if self.store.find(phase) is None else self.store.seconds(phase)

        seconds = self.first.does(f"looking for {phase.name}", look)
        if seconds is not None:
            self._tell(f"{phase.name}: found as {phase.key}, {seconds:.0f} s")
        return seconds

    def _tell(self, message: str) -> None:
        self.log.append(message)
        rank_zero_info(message)


def tensors(checkpoint: Path, part: str = "") -> dict[str, Tensor]:
    """Return the weights of a product whose names begin with ``part``."""
    state = read_checkpoint(checkpoint)["state_dict"]
    return {name: tensor for name, tensor in state.items() if name.startswith(part)}


def _visible(path: Path, seconds: float = 60.0) -> Path:
    """Return a path once this process sees it: network file systems show new files late.

    Raises:
        PhaseError: it does not see it within some seconds.
    """
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise PhaseError(
                f"{path} was written by rank 0, but this process does not see it. scheme.store has "
                "to be a folder that all machines share."
            )
        time.sleep(0.2)
    return path


def _require_unmoved(phase: Phase, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Prove that what had to stay is what it was, bit by bit.

    Raises:
        PhaseError: naming the tensors that moved.
    """
    moved = [name for name, old in before.items() if not torch.equal(old, after[name].cpu())]
    if moved:
        raise PhaseError(
            f"Phase {phase.name} has moved {len(moved)} of {len(before)} tensors that have to stay "
            f"as they are, such as {moved[0]}: the phases would no longer fit together. A callback "
            "or optimiser changes what does not require gradients."
        )
