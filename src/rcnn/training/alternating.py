"""Alternating training: the four steps of Faster R-CNN, section 3.2, as a graph of stored stages.

1. ``1_rpn``: a proposal network from the pretrained weights.
2. ``2_fast_rcnn``: Fast R-CNN, also from the pretrained weights, on the proposals of 1. The two
   networks share nothing yet; used together they are the paper's "unshared" system.
3. ``3_rpn``: a proposal network on the convolutions of 2, which stay as they are.
4. ``4_fast_rcnn``: the region stage of 2 learns on the proposals of 3; the convolutions stay.

The result is one Faster R-CNN: the convolutions of 2, the proposal network of 3, the region stage
of 4.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from rcnn.data.sources import Split
from rcnn.model.backbones import LoadedWeights
from rcnn.model.settings import DetectorSettings
from rcnn.settings import to_plain
from rcnn.training.announcing import announce
from rcnn.training.checkpoint import read_checkpoint
from rcnn.training.datamodule import DetectionDataModule
from rcnn.training.module import DetectionModule
from rcnn.training.optim import Recipe
from rcnn.training.proposing import propose_with
from rcnn.training.stages import Stage, StageError, StageStore

PRODUCT, BEGUN = "module.ckpt", "last.ckpt"
BODY, RPN, REGIONS = "detector.body.", "detector.rpn.", "detector.regions."

MakeTrainer = Callable[[str, Path, int], pl.Trainer]
"""From a stage's name, the folder for ``last.ckpt`` and the number of steps to a trainer."""

MakeData = Callable[[Path | None], DetectionDataModule]
"""From a folder of stored proposals, or None, to the data of a run."""


@dataclass(frozen=True)
class Plan:
    """What an alternating training is made of.

    Attributes:
        settings: of the Faster R-CNN that is the result.
        recipe: makes the optimiser of every step.
        weights: the pretrained network, or random weights, of steps 1 and 2.
        steps: optimiser steps of each of the four steps, or of the first two.
        seed: of each step, so that a step does not depend on whether the one before it was run
            or found.
        inputs: everything else that changes a product, as plain values: data, optimiser, trainer.
        plus_one: VOC's metric counts pixels inclusively.
        device: of this process.
        leads: whether this process makes what only one has to make.
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


class AlternatingTraining:
    """Runs the steps that are not in the store yet.

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
        """Spent on the steps of this call; what was found costs nothing."""
        self.log: list[str] = []
        """What was trained and what was found."""
        steps, weights = plan.steps, plan.weights.source
        self.rpn1 = self._stage("1_rpn", steps=steps[0], weights=weights)
        self.proposals1 = self._stage("1_proposals", self.rpn1, splits=["train"])
        self.fast2 = self._stage("2_fast_rcnn", self.proposals1, steps=steps[1], weights=weights)

    def run(self) -> DetectionModule:
        """Train all four steps and return the network that they end in."""
        _, fast2 = self._two_networks()
        steps = self.plan.steps
        stage = self._stage("3_rpn", self.fast2, steps=steps[2])
        rpn3 = self._train(stage, partial(self._on_shared_convolutions, "rpn", fast2, BODY))
        stage = self._stage("3_proposals", stage, splits=["train"])
        proposals = self._propose(stage, rpn3)
        stage = self._stage("4_fast_rcnn", stage, steps=steps[3])
        start = partial(self._on_shared_convolutions, "fast_rcnn", fast2)
        fast4 = self._train(stage, start, proposals)
        merged = self._module("faster_rcnn")
        merged.load_state_dict(
            _tensors(fast4, BODY) | _tensors(rpn3, RPN) | _tensors(fast4, REGIONS)
        )
        return merged

    def run_unshared(self, splits: tuple[Split, ...]) -> tuple[DetectionModule, Path]:
        """Train the first two steps, and propose for the splits that will be tested.

        Returns:
            The Fast R-CNN, and the folder of the proposals that it detects among.
        """
        rpn1, fast2 = self._two_networks()
        proposals = self._stage("1_test_proposals", self.rpn1, splits=list(splits))
        module = self._module("fast_rcnn")
        module.load_state_dict(_tensors(fast2))
        return module, self._propose(proposals, rpn1)

    def _two_networks(self) -> tuple[Path, Path]:
        rpn1 = self._train(self.rpn1, partial(self._pretrained, "rpn"))
        proposals = self._propose(self.proposals1, rpn1)
        return rpn1, self._train(self.fast2, partial(self._pretrained, "fast_rcnn"), proposals)

    # --- what each step starts from ---------------------------------------------------------

    def _pretrained(self, system: str) -> DetectionModule:
        module = self._module(system)
        self.plan.weights.load_into(module.detector.backbone)
        return module

    def _on_shared_convolutions(self, system: str, fast2: Path, part: str = "") -> DetectionModule:
        """Return a module that starts from that part of step 2 and keeps its convolutions."""
        module = self._module(system)
        module.load_state_dict(_tensors(fast2, part), strict=not part)
        module.detector.body.freeze()
        return module

    def _module(self, system: str) -> DetectionModule:
        # The same weights whatever was drawn before: a step must not depend on what was found.
        pl.seed_everything(self.plan.seed, workers=True, verbose=False)
        plan = self.plan
        return DetectionModule(
            plan.settings,
            system=system,
            recipe=plan.recipe,
            seed=plan.seed,
            plus_one=plan.plus_one,
            weights=plan.weights.source,
        )

    # --- the stages -------------------------------------------------------------------------

    def _stage(self, name: str, *parents: Stage, **own: Any) -> Stage:
        inputs = {"settings": to_plain(self.plan.settings), "seed": self.plan.seed, **own}
        return Stage(name, {**self.plan.inputs, **inputs}, parents)

    def _train(
        self, stage: Stage, start: Callable[[], DetectionModule], proposals: Path | None = None
    ) -> Path:
        """Return the checkpoint of a step, trained now if it is not in the store."""
        found = self.store.find(stage)
        if found is not None:
            self._tell(f"{stage.name}: found as {stage.key}")
            return found / PRODUCT
        folder = self.store.begin(stage)
        steps = stage.inputs["steps"]
        trainer = self.make_trainer(stage.name, folder, steps)
        module, data = start(), self.make_data(proposals)
        shared = {name: tensor.clone() for name, tensor in _frozen_part(module).items()}
        begun = folder / BEGUN
        began = time.monotonic()
        trainer.fit(module, data, ckpt_path=begun if begun.is_file() else None)
        seconds = time.monotonic() - began
        if trainer.global_step != steps:
            raise StageError(
                f"Step {stage.name} ended after {trainer.global_step} of {steps} optimiser steps, "
                "by trainer.max_time or a callback: its product would not be what its name says. "
                "Run the same command again to go on from its last epoch."
            )
        _require_unmoved(stage, shared, _frozen_part(module))
        trainer.save_checkpoint(folder / PRODUCT)
        if trainer.is_global_zero:
            begun.unlink(missing_ok=True)
            self.store.finish(stage)
        self.seconds += seconds
        self._tell(f"{stage.name}: {steps} steps in {seconds:.0f} s, stored as {stage.key}")
        return self.store.wait(stage) / PRODUCT

    def _propose(self, stage: Stage, checkpoint: Path) -> Path:
        """Return the folder of a network's proposals, made now if it is not in the store."""
        if self.store.find(stage) is not None:
            self._tell(f"{stage.name}: found as {stage.key}")
        elif self.plan.leads:
            folder = self.store.begin(stage)
            module = DetectionModule.load_from_checkpoint(checkpoint, self.plan.device)
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
            self.store.finish(stage)
            seconds = time.monotonic() - began
            self.seconds += seconds
            self._tell(f"{stage.name}: {seconds:.0f} s, stored as {stage.key}")
        return self.store.wait(stage)

    def _tell(self, message: str) -> None:
        self.log.append(message)
        announce(message)


def _tensors(checkpoint: Path, part: str = "") -> dict[str, Tensor]:
    """Return the weights of a product whose names begin with ``part``."""
    state = read_checkpoint(checkpoint)["state_dict"]
    return {name: tensor for name, tensor in state.items() if name.startswith(part)}


def _frozen_part(module: DetectionModule) -> dict[str, Tensor]:
    """Return the shared convolutions, statistics of norms included, if they must not move."""
    body = module.detector.body
    return dict(body.state_dict()) if body.frozen else {}


def _require_unmoved(stage: Stage, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Prove that the shared convolutions are what they were, bit by bit.

    Raises:
        StageError: naming the tensors that moved.
    """
    moved = [name for name, old in before.items() if not torch.equal(old, after[name].cpu())]
    if moved:
        raise StageError(
            f"Step {stage.name} has moved {len(moved)} of {len(before)} tensors of the shared "
            f"convolutions, such as {moved[0]}: the steps would no longer fit together. A callback "
            "or optimiser changes what does not require gradients."
        )
