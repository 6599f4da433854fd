"""What happens around the training loop: averaged weights, a guard against NaN, pictures.

``Progress`` and ``Throughput`` of ``rcnn.training.progress`` are importable from here, too.
"""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from rcnn.data import DetectionBatch, Sample, collate, resized
from rcnn.data.splits import Split
from rcnn.settings import require
from rcnn.training.datamodule import DetectionDataModule
from rcnn.training.module import DetectionModule
from rcnn.training.progress import Progress, Throughput
from rcnn.view import draw_comparison, draw_rois, image_of, stage_board, to_pil

__all__ = ["EMA", "FiniteLoss", "NonFiniteLossError", "Pictures", "Progress", "Throughput"]


class EMA(WeightAveraging):
    """Trains one set of weights and uses their running average for everything else.

    After every optimiser step ``average = d * average + (1 - d) * weights`` with
    ``d = min(decay, (1 + n) / (10 + n))`` after n steps, so that a short run is not dominated by
    its first weights. Floating-point buffers (running statistics of batch norms) are averaged like
    the parameters, counters are copied.

    From the start of a validation to the next training batch, and after the end of training, the
    module holds the average. So ``state_dict`` of a checkpoint is what was validated, and whoever
    loads it needs not know of this callback; to go on with training exactly, the checkpoint holds
    the raw weights, too. A checkpoint with ``save_weights_only=True`` that is written between
    validations holds the raw weights only.

    Lightning's callback keeps the average and its part of the checkpoints. It lacks what is
    overridden here: it gives the raw weights back before pictures are drawn and weights are saved
    after a validation; ``test(ckpt_path="best")`` after ``fit`` reads the raw weights; a checkpoint
    that is saved after the end of training has lost them; the average lies on the CPU while a GPU
    trains, or each update waits for the GPU. Of its private attributes ``_average_model`` and
    ``_latest_update_step`` are used here; see ``rcnn.training.progress`` for the others.

    Args:
        decay: share of the average that is kept at each step, between 0 and 1.
    """

    def __init__(self, decay: float = 0.999) -> None:
        require(0 < decay < 1, "callbacks.average.decay", decay, "it lies between 0 and 1")
        # The number of updates stays on the CPU: reading it from a GPU would wait for it.
        super().__init__(device="cpu")
        self.decay = decay
        self._raw: dict[str, Tensor] = {}  # empty while the module holds the raw weights itself

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start an average at the module's weights for a training; forget it otherwise."""
        self._raw = {}
        if stage != "fit":
            self._average_model = None
            return
        super().setup(trainer, pl_module, stage)
        assert self._average_model is not None
        for tensor in _tensors(self._average_model.module):
            if tensor.is_floating_point():  # an average in half precision would not move
                tensor.data = tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Resume the average in a training; a test keeps to the average in ``state_dict``."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average on the device, and note how far a resumed run has come."""
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)
        self._latest_update_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Give the module its raw weights back."""
        if self._raw:
            pl_module.load_state_dict(self._raw)
            self._raw = {}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average if the optimiser has stepped."""
        average = self._average_model
        if average is None or trainer.global_step == self._latest_update_step:
            return
        self._latest_update_step = trainer.global_step
        updates = int(average.n_averaged)
        average.n_averaged += 1
        averages, weights = [], []
        for mean, value in zip(_tensors(average.module), _tensors(pl_module), strict=True):
            if mean.is_floating_point():
                averages.append(mean)
                weights.append(value.to(mean.dtype))
            else:
                mean.copy_(value)
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(averages, weights, 1.0 - decay)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average into the module."""
        self._show_average(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the average in the module for the pictures and checkpoints that follow."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module."""
        self._show_average(pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the module's weights, and the raw weights beside it."""
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            if self._raw:
                checkpoint["current_model_state"] = self._raw

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the device, as the module does."""
        if self._average_model is not None:
            self._average_model.cpu()
        self._raw = {name: tensor.cpu() for name, tensor in self._raw.items()}

    def _show_average(self, module: LightningModule) -> None:
        if self._average_model is not None and not self._raw:
            self._raw = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            module.load_state_dict(self._average_model.module.state_dict())


def _tensors(module: torch.nn.Module) -> Iterator[Tensor]:
    """Return parameters and buffers, in an order that a copy of the module shares."""
    return itertools.chain(module.parameters(), module.buffers())


class NonFiniteLossError(FloatingPointError):
    """A loss was infinite or not a number."""


@dataclass(frozen=True)
class _Step:
    """What is kept of a minibatch until its losses are looked at."""

    number: int
    lr: float
    image_ids: tuple[str, ...]
    names: tuple[str, ...]
    losses: Tensor


class FiniteLoss(Callback):
    """Raises when a loss is infinite or not a number, and keeps such weights out of checkpoints.

    The error names the step, the learning rate, the losses concerned and the images of the
    minibatch. Reading a loss makes the host wait for a GPU, so there the losses of a window are
    read together: at its end, before a validation and before a checkpoint is written. On a CPU each
    step is looked at. With several processes all stop with the error of the earliest step.

    ``training_step`` returns the total as ``loss`` and may return the terms as ``losses``, by name;
    the batch has ``image_ids``.

    Args:
        window: number of steps that are read at once on a GPU.
    """

    def __init__(self, window: int = 50) -> None:
        self.window = window
        self._steps: list[_Step] = []
        self._totals: deque[float] = deque(maxlen=5)  # before the window, for the message
        self._number, self._lr = 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run."""
        self._steps.clear()
        self._totals.clear()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rate, which has changed when the minibatch is over."""
        self._number = trainer.global_step + 1
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the losses; read them at the end of a window."""
        if not outputs:
            return  # the step was skipped
        terms: dict[str, Tensor] = {**outputs.get("losses", {}), "loss": outputs["loss"]}
        # Stacking copies them: a compiled step may write the next losses to the same memory.
        losses = torch.stack([term.detach().float() for term in terms.values()])
        ids = tuple(batch.image_ids)
        self._steps.append(_Step(self._number, self._lr, ids, tuple(terms), losses))
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if on_cpu or len(self._steps) >= self.window:
            self._check_all_processes(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not validate weights that are no numbers."""
        self._check_all_processes(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the rest of the window before the epoch's checkpoint is written."""
        self._check_all_processes(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to write weights that are no numbers; nothing is on the disk yet."""
        fault = self._fault()
        if fault is not None:
            raise NonFiniteLossError(fault[1])

    def _check_all_processes(self, trainer: Trainer) -> None:
        if not self._steps:
            return
        fault = self._fault()
        if trainer.world_size > 1:
            # The weights of all processes are spoiled together, but one of them saw the images.
            faults: list[tuple[int, str] | None] = [None] * trainer.world_size
            if trainer.strategy.reduce_boolean_decision(fault is not None, all=False):
                torch.distributed.all_gather_object(faults, fault)
            fault = min((one for one in faults if one is not None), default=None)
        if fault is not None:
            raise NonFiniteLossError(fault[1])

    def _fault(self) -> tuple[int, str] | None:
        """Read the window; return the first step with a loss that is no number, and what to say.

        The steps before that one are forgotten.
        """
        if not self._steps:
            return None
        losses = torch.stack([step.losses for step in self._steps]).tolist()
        for index, (step, values) in enumerate(zip(self._steps, losses, strict=True)):
            named = dict(zip(step.names, values, strict=True))
            if not all(map(math.isfinite, values)):
                del self._steps[:index]
                return step.number, _describe(step, named, self._totals)
            self._totals.append(named["loss"])
        self._steps.clear()
        return None


def _describe(step: _Step, losses: Mapping[str, float], before: Iterable[float]) -> str:
    bad = ", ".join(f"{name} is {loss}" for name, loss in losses.items() if not math.isfinite(loss))
    history = ", ".join(f"{loss:.4g}" for loss in before) or "none, it is the first"
    return (
        f"Step {step.number}, learning rate {step.lr:g}: {bad}. "
        f"Images of the minibatch: {', '.join(step.image_ids)}. Losses before: {history}. "
        "Losses that grow towards the end point to a learning rate that is too high (optimizer.lr, "
        "optimizer.warmup_steps, trainer.gradient_clip_val); a sudden one points to the "
        "annotations of these images (rcnn check-data)."
    )


class Pictures(Callback):
    """Draws ground truth beside detections, and the RoIs that a training step would sample.

    After a validation they are of validation images, as ``detections`` and ``sampled_rois``; after
    a test of test images, as ``test_detections``. They go to TensorBoard and, the latest of each,
    into ``folder``.

    Args:
        folder: folder of the picture files; null writes none.
        images: number of images that are drawn, always the first ones.
        minimum_score: score below which a detection is not drawn.
        seed: seed of the sampled RoIs.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        images: int = 4,
        minimum_score: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.images = images
        self.minimum_score = minimum_score
        self.seed = seed

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the first images of the validation split."""
        if trainer.sanity_checking or not isinstance(pl_module, DetectionModule):
            return
        for number, sample in enumerate(self._first(trainer, "val")):
            batch = _batch(sample, pl_module)
            self._show(trainer, f"detections/{number}", self._comparison(pl_module, sample, batch))
            generator = torch.Generator(pl_module.device).manual_seed(self.seed)
            step = pl_module.detector.training_outputs(batch.images, batch.targets, generator)
            if step.rois is not None:
                rois = step.rois.to("cpu")
                boxes, labels = rois.boxes[rois.labels >= 0], rois.labels[rois.labels >= 0]
                panel = draw_rois(image_of(batch.images, 0), boxes, labels)
                board = stage_board([("sampled RoIs", panel)], columns=1)
                self._show(trainer, f"sampled_rois/{number}", board)

    @torch.no_grad()
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the first images of the test split."""
        if not isinstance(pl_module, DetectionModule):
            return
        for number, sample in enumerate(self._first(trainer, "test")):
            comparison = self._comparison(pl_module, sample, _batch(sample, pl_module))
            self._show(trainer, f"test_detections/{number}", comparison)

    def _first(self, trainer: Trainer, split: Split) -> list[Sample]:
        """Return the images that are drawn; none in all processes but the first."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, DetectionDataModule) or not trainer.is_global_zero:
            return []
        dataset = data.dataset(split)
        return [dataset[number] for number in range(min(self.images, len(dataset)))]

    def _comparison(
        self, module: DetectionModule, sample: Sample, batch: DetectionBatch
    ) -> UInt8[Tensor, "3 h w"]:
        detections = module.detector.detect_batch(batch.images)[0][0].to("cpu")
        truth = sample.ground_truth
        if detections.class_names != module.class_names:  # those of an RPN have no class
            truth = dataclasses.replace(truth, labels=torch.ones_like(truth.labels))
        return draw_comparison(sample.image, detections, truth, minimum_score=self.minimum_score)

    def _show(self, trainer: Trainer, tag: str, picture: UInt8[Tensor, "3 h w"]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(tag, picture, trainer.global_step)
        if self.folder is not None:
            path = self.folder / f"{tag}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil(picture).save(path, compress_level=1)  # a quarter of the time


def _batch(sample: Sample, module: DetectionModule) -> DetectionBatch:
    images = module.settings.images
    small = resized(sample, images.shorter_side, images.longer_side, images.antialias)
    return collate([small], images.multiple).to(module.device)
