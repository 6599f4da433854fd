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
from dataclasses import dataclass, field
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
    """A phase cannot be finished, or its folder is not what it should be."""


@dataclass(frozen=True)
class Phase:
    """One phase of a training.

    Attributes:
        name: name for people, such as ``1_rpn``.
        inputs: everything that changes its product, as plain numbers, strings, lists and mappings.
        parents: phases with the products that it starts from.
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
    """The folder that holds the products of phases, finished or begun; it is made when needed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def find(self, phase: Phase) -> Path | None:
        """Return the folder of a finished phase, or None.

        Raises:
            PhaseError: the folder holds something else.
        """
        folder = self.folder / phase.key
        if not folder.exists():
            return None
        record = folder / INPUTS
        if not record.is_file() or record.read_text() != phase.record:
            raise PhaseError(
                f"{folder} is not the product of this phase: {INPUTS} is missing or holds other "
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
            phase: phase with a complete product.
            seconds: time that it took, for ``seconds``.
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

    def __init__(self, limit: timedelta = timedelta(days=2)) -> None:
        self.limit = limit
        self._group: Any = None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Under NCCL a waiting process would keep its GPU busy, and gloo keeps to the limit.
            self._group = torch.distributed.new_group(backend="gloo", timeout=limit)

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
        rank = torch.distributed.get_rank()
        outcome: list[Any] = [None, None]  # the result, and what failed
        if rank == 0:
            try:
                outcome[0] = work()
            except Exception as error:
                failed = [None, f"{type(error).__name__}: {error}"]
                torch.distributed.broadcast_object_list(failed, src=0, group=self._group)
                raise
        try:
            torch.distributed.broadcast_object_list(outcome, src=0, group=self._group)
        except RuntimeError as error:
            raise PhaseError(
                f"Rank {rank} waited for rank 0, which did not finish {what}: it has ended, "
                f"or took longer than {self.limit}. Its own output says more. ({error})"
            ) from error
        result, failure = outcome
        if failure is not None:
            raise PhaseError(f"Rank 0 failed at {what}; rank {rank} ends, too. {failure}")
        return result  # type: ignore[no-any-return]


@dataclass
class PhaseRunner:
    """Trains phases and makes proposals, unless the store has them.

    Attributes:
        settings: settings of the detector that is the result.
        recipe: factory of the optimiser of every phase.
        weights: pretrained or random weights of the phases that start from no other phase.
        steps: optimiser steps of each training.
        seed: seed of each phase, so that a phase does not depend on whether the one before it was
            run or found.
        inputs: everything else that changes a product, as plain values: data, optimiser, trainer.
        plus_one: whether VOC's metric counts pixels inclusively.
        device: device of this process.
        speed: how the detectors of all phases are run.
        store: folder of the products.
        make_data: factory of a phase's data, from the folder of its stored proposals; None for
            the detector's own.
        make_trainer: factory of a phase's trainer, from the phase's name, the folder for
            ``last.ckpt`` and a number of steps.
        seconds: time of all phases and of the proposals that they learn from: what is found in the
            store counts as much as it took when it was made. What is lost by an interruption does
            not count, nor do proposals for a test.
        log: sentences on what was trained and what was found.
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
    store: PhaseStore
    make_data: Callable[[Path | None], DetectionDataModule]
    make_trainer: Callable[[str, Path, int], pl.Trainer]
    seconds: float = field(default=0.0, init=False)
    log: list[str] = field(default_factory=list, init=False)
    _first: FirstProcess = field(default_factory=FirstProcess, init=False, repr=False)

    def training(
        self, name: str, number: int, *parents: Phase, own: Mapping[str, Any] | None = None
    ) -> Phase:
        """Return the phase of a training.

        Args:
            name: name for people.
            number: index in the numbers of optimiser steps.
            parents: phases with the products it starts from.
            own: inputs of this phase alone.
        """
        return self._phase(name, parents, {"steps": self.steps[number], **(own or {})})

    def proposals(self, name: str, parent: Phase, splits: Sequence[Split]) -> Phase:
        """Return the phase of the proposals of a trained network for some splits."""
        limits = self.settings.proposals
        read = ONLY_DETECTION["proposals"] if set(splits) - {"train"} else ()
        own = {key: getattr(limits, key) for key in read}
        return self._phase(name, (parent,), {"splits": list(splits), **own})

    def _phase(self, name: str, parents: Sequence[Phase], own: Mapping[str, Any]) -> Phase:
        inputs = {"settings": training_settings(self.settings), "seed": self.seed, **own}
        return Phase(name, {**self.inputs, **inputs}, parents)

    def pretrained(self, system: str, settings: DetectorSettings | None = None) -> DetectionModule:
        """Return a module that starts from ``weights``."""
        module = self.module(system, settings)
        self.weights.load_into(module.detector.network)
        return module

    def module(self, system: str, settings: DetectorSettings | None = None) -> DetectionModule:
        """Return a module that starts at random, by default with the settings of the result."""
        # The same weights whatever was drawn before: a phase must not depend on what was found.
        pl.seed_everything(self.seed, workers=True, verbose=False)
        return DetectionModule(
            settings or self.settings,
            system=system,
            recipe=self.recipe,
            seed=self.seed,
            plus_one=self.plus_one,
            weights=self.weights.source,
            speed=self.speed,
        )

    def tensors(self, phase: Phase, part: str = "") -> dict[str, Tensor]:
        """Return those weights of a finished training that have names beginning with ``part``."""
        state = read_checkpoint(self.store.folder / phase.key / PRODUCT)["state_dict"]
        return {name: tensor for name, tensor in state.items() if name.startswith(part)}

    def train(
        self,
        phase: Phase,
        start: Callable[[], DetectionModule],
        proposals: Phase | None = None,
        kept: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Train a phase that is not in the store.

        Args:
            phase: phase that trains.
            start: factory of the module that is trained.
            proposals: phase of the proposals that it learns from, if they are a phase's.
            kept: whether the phase has to leave the tensor of a name as it is, which is proved.

        Raises:
            PhaseError: the phase ended early, has moved what it had to keep, or rank 0 failed.
        """
        found = self._found(phase)
        if found is not None:
            self.seconds += found
            return
        folder = self.store.begin(phase)
        steps = phase.inputs["steps"]
        trainer = self.make_trainer(phase.name, folder, steps)
        module = start()
        data = self.make_data(None if proposals is None else self.store.folder / proposals.key)
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

        _await(self._first.does(f"storing phase {phase.name}", finish) / PRODUCT)
        self.seconds += seconds
        self._tell(f"{phase.name}: {steps} steps in {seconds:.0f} s, stored as {phase.key}")

    def propose(self, phase: Phase) -> Path:
        """Return the folder of a phase's proposals, made now if they are not in the store.

        Args:
            phase: phase of proposals; the network is that of its parent.

        Raises:
            PhaseError: rank 0 failed, or the folder is not this phase's.
        """
        seconds = self._found(phase)
        if seconds is None:
            what = f"the proposals of {phase.name}"
            seconds = self._first.does(what, lambda: self._propose(phase))
            self._tell(f"{phase.name}: {seconds:.0f} s, stored as {phase.key}")
        if "train" in phase.inputs["splits"]:
            self.seconds += seconds
        return _await(self.store.folder / phase.key)

    def _propose(self, phase: Phase) -> float:
        """Make and store the proposals, and return the seconds that it took."""
        folder = self.store.begin(phase)
        checkpoint = self.store.folder / phase.parents[0].key / PRODUCT
        module = DetectionModule.load_from_checkpoint(checkpoint, self.device, speed=self.speed)
        data, limits = self.make_data(None), self.settings.proposals
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

        seconds = self._first.does(f"looking for {phase.name}", look)
        if seconds is not None:
            self._tell(f"{phase.name}: found as {phase.key}, {seconds:.0f} s")
        return seconds

    def _tell(self, message: str) -> None:
        self.log.append(message)
        rank_zero_info(message)


def _await(path: Path, seconds: float = 60.0) -> Path:
    """Return a path once this process sees it: network file systems show new files late."""
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
    """Prove that what had to stay is what it was, bit by bit."""
    moved = [name for name, old in before.items() if not torch.equal(old, after[name].cpu())]
    if moved:
        raise PhaseError(
            f"Phase {phase.name} has moved {len(moved)} of {len(before)} tensors that have to stay "
            f"as they are, such as {moved[0]}: the phases would no longer fit together. A callback "
            "or optimiser changes what does not require gradients."
        )
