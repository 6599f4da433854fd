"""The detectors as one LightningModule: training, validation, prediction, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.data import DetectionBatch
from rcnn.data.images import Picture
from rcnn.inference.checkpoint import CHECKPOINT_FORMAT, CHECKPOINT_KEY, read_checkpoint
from rcnn.inference.compress import BoxHeadSVD, Ranks, compressed_state
from rcnn.inference.predict import predict
from rcnn.metrics.suite import Scores
from rcnn.model.build import Detector, build_detector
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposal_network import ProposalNetwork
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.model.speed import SpeedSettings, align_state, prepare
from rcnn.settings import SettingsError, from_plain, require, to_plain
from rcnn.structures import Detections, Losses
from rcnn.training.optim import AdamWCosine, Recipe
from rcnn.training.progress import batches_done, reopen_loader

Scheme = Literal["joint", "exact"]
"""How the RPN and the RoI heads learn in one training (Faster R-CNN, section 3.2).

``joint`` is approximate joint training: all losses at once, with proposals as constants. ``exact``
is non-approximate joint training: the losses of the RoI heads also move the proposals, by a
gradient through the coordinates of the RoIs, in the pooled features and in the box targets.
"""


class DetectionModule(pl.LightningModule):
    """A two-stage detector that Lightning can train, validate and test.

    Its checkpoints hold all that is needed to use it elsewhere, as plain numbers and strings:
    settings, class names, weights. ``DetectionModule.load_from_checkpoint(path)`` needs no config
    file and executes nothing from the file.

    Args:
        settings: settings of the detector, or their plain form.
        system: name of the detector's kind, see ``rcnn.model.build``.
        recipe: factory of the optimiser and its schedule; by default AdamW with a cosine.
        scheme: how the stages learn together, see ``Scheme``.
        seed: seed of the samplers. What a step draws depends on the seed, the number of the
            minibatch and the process only, so that a resumed run draws the same.
        plus_one: whether VOC's metric counts pixels inclusively; no checkpoint holds it.
        weights: origin of the backbone's weights, for the record.
        speed: how the detector is run; no checkpoint holds it.

    Raises:
        SettingsError: the settings do not fit each other, the system or the scheme.
    """

    def __init__(
        self,
        settings: DetectorSettings | Mapping[str, Any],
        *,
        system: str = "faster_rcnn",
        recipe: Recipe | None = None,
        scheme: Scheme = "joint",
        seed: int = 0,
        plus_one: bool = False,
        weights: str = "random",
        speed: SpeedSettings | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(settings, DetectorSettings):
            settings = from_plain(DetectorSettings, settings)
        self.settings = settings
        self.system = system
        self.recipe: Recipe = recipe or AdamWCosine()
        self.seed = seed
        self.plus_one = plus_one
        self.weights = weights
        self.speed = speed or SpeedSettings()
        self.detector = build_detector(system, settings)
        prepare(self.detector, self.speed)
        self.scheme: Scheme = scheme
        _check_scheme(scheme, self.detector)
        self.val_scores = Scores(settings.class_names, plus_one=plus_one)
        self.test_scores = Scores(settings.class_names, plus_one=plus_one)
        self.per_class: dict[str, dict[str, dict[str, float]]] = {}
        """Average precisions of each class, by split."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes 1..K."""
        return self.settings.class_names

    # --- training ---------------------------------------------------------------------------

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, Any]:  # noqa: ARG002
        """Return the total loss, and its terms for callbacks."""
        generator = self._generator(batches_done(self.trainer))
        if self.scheme == "exact" and isinstance(self.detector, FasterRCNN):
            losses = self.detector.losses(batch.images, batch.targets, generator, exact=True)
        else:
            losses = self.detector.losses(batch.images, batch.targets, generator)
        self._log_losses("train", losses, batch)
        terms = {name: term.detach() for name, term in losses.named.items()}
        return {"loss": losses.total, "losses": terms}

    def on_train_start(self) -> None:
        """Open the loader of a resumed training at its next minibatch."""
        reopen_loader(self.trainer)

    def configure_optimizers(self) -> Any:
        """Return what the recipe makes for a run of the trainer's length."""
        trainer = self.trainer
        per_device = getattr(getattr(trainer, "datamodule", None), "batch_size", 1)
        optimizer, schedule = self.recipe(
            self.detector,
            total_steps=trainer.estimated_stepping_batches,
            images_per_step=trainer.accumulate_grad_batches * trainer.world_size * per_device,
            # Lightning refuses to clip under mixed precision for optimisers that unscale inside.
            fused="mixed" not in trainer.precision or trainer.gradient_clip_val is None,
        )
        # A resumed run may have another memory format than the one that wrote the checkpoint.
        optimizer.register_load_state_dict_post_hook(align_state)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "learning_rate"},
        }

    # --- validation and test ----------------------------------------------------------------

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, Any]:
        """Detect, score, and measure the losses."""
        generator = self._generator(batch_idx)
        result = self.detector.evaluation_outputs(batch.images, batch.targets, generator)
        self.val_scores.update(
            result.detections, batch.ground_truths, result.proposals, batch.images
        )
        self._log_losses("val", result.losses, batch)
        return {"detections": result.detections}

    def test_step(self, batch: DetectionBatch, batch_idx: int) -> dict[str, Any]:  # noqa: ARG002
        """Detect and score."""
        detections, proposals = self.detector.detect_batch(batch.images)
        # What a proposal network finds has no class, so that only its recall counts.
        scored = None if type(self.detector) is ProposalNetwork else detections
        self.test_scores.update(scored, batch.ground_truths, proposals, batch.images)
        return {"detections": detections}

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation split."""
        self._log_scores("val", self.val_scores)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test split."""
        self._log_scores("test", self.test_scores)

    def _log_losses(self, split: str, losses: Losses, batch: DetectionBatch) -> None:
        """Log the losses and sample counts of a training step, or the mean losses of a split."""
        step = split == "train"
        values = {"loss": losses.total}
        values |= {f"loss_{name}": term for name, term in losses.named.items()}
        values |= {name: n.float() for name, n in losses.counts.named.items() if step}
        # Not for Lightning's bar: it would read, and so wait for, each of them at every step.
        self.log_dict(
            {f"{split}/{name}": value for name, value in values.items()},
            on_step=step,
            on_epoch=not step,
            sync_dist=not step,
            batch_size=len(batch.image_ids),
        )

    def _log_scores(self, split: str, scores: Scores) -> None:
        headline, self.per_class[split] = scores.compute()
        scores.reset()
        # Every process has computed the same values from all images.
        self.log_dict(
            {f"{split}/{name}": value for name, value in headline.items()}, sync_dist=True
        )

    def _generator(self, number: int) -> torch.Generator:
        """Return the randomness of the minibatch of this number in one process."""
        seed = hash((self.seed, number, self.global_rank)) & 0x7FFF_FFFF_FFFF_FFFF
        return torch.Generator(self.device).manual_seed(seed)

    # --- prediction -------------------------------------------------------------------------

    def predict_step(self, batch: DetectionBatch) -> list[Detections]:
        """Return the detections of a minibatch, for ``Trainer.predict``."""
        return self.detector.detect_batch(batch.images)[0]

    # A path is a string, and a string a sequence: mypy finds that the overloads overlap.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        pictures: Picture,
        *,
        score: float | None = ...,
        nms_iou: float | None = ...,
        batch_size: int = ...,
        proposals: Sequence[Float[Tensor, "_ 4"]] | None = ...,
    ) -> Detections: ...

    @overload
    def predict(
        self,
        pictures: Sequence[Picture],
        *,
        score: float | None = ...,
        nms_iou: float | None = ...,
        batch_size: int = ...,
        proposals: Sequence[Float[Tensor, "_ 4"]] | None = ...,
    ) -> list[Detections]: ...

    def predict(
        self,
        pictures: Picture | Sequence[Picture],
        *,
        score: float | None = None,
        nms_iou: float | None = None,
        batch_size: int = 2,
        proposals: Sequence[Float[Tensor, "_ 4"]] | None = None,
    ) -> Detections | list[Detections]:
        """Return the detections of one picture, or of each of a list.

        See ``rcnn.inference.predict.predict`` for the arguments, the result and the errors.
        """
        return predict(
            self.detector,
            pictures,
            score=score,
            nms_iou=nms_iou,
            batch_size=batch_size,
            proposals=proposals,
        )

    # --- checkpoints ------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the detector, as plain numbers and strings."""
        checkpoint[CHECKPOINT_KEY] = {
            "format": CHECKPOINT_FORMAT,
            "system": self.system,
            "settings": to_plain(self.settings),
            "weights": self.weights,
            "seed": self.seed,
            "scheme": self.scheme,
        }

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str = "cpu",
        recipe: Recipe | None = None,
        speed: SpeedSettings | None = None,
    ) -> DetectionModule:
        """Rebuild a module from its checkpoint alone.

        The file is read with ``weights_only=True``: nothing in it is executed.

        Args:
            checkpoint_path: file that a training run or ``save`` wrote.
            map_location: device of the module.
            recipe: factory of the optimiser, for training on; see the class.
            speed: how the detector is run.

        Raises:
            CheckpointError: the file is missing, damaged, or none of this package's.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        record = checkpoint[CHECKPOINT_KEY]
        own = {key: record[key] for key in ("system", "scheme", "seed", "weights")}
        module = cls(record["settings"], recipe=recipe, speed=speed, **own)
        module.load_state_dict(checkpoint["state_dict"])
        return module.to(map_location)

    def for_classes(
        self, class_names: Sequence[str], recipe: Recipe | None = None
    ) -> DetectionModule:
        """Return a module for other classes that starts from this one's weights.

        All layers are copied but the two outputs of the RoI heads, which start at random, and the
        normalisation of the box targets is the default one.

        Args:
            class_names: names of the new classes 1..K.
            recipe: factory of the optimiser, for training on; by default this module's.
        """
        settings = replace(
            self.settings,
            class_names=tuple(class_names),
            deltas=DeltaSettings(),  # what was measured was measured on the other classes
        )
        state = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith("detector.roi_heads.box_predictor.")
        }
        weights = f"detector of {', '.join(self.class_names)}"
        return self.with_settings(settings, state=state, recipe=recipe, weights=weights)

    def compressed(self, ranks: Ranks, factors: BoxHeadSVD | None = None) -> DetectionModule:
        """Return a copy with fc6 and fc7 as products of two thinner layers (truncated SVD).

        Args:
            ranks: ranks of fc6 and fc7, 0 to leave one of them whole.
            factors: singular values of this module's detector, if it is compressed more than once.

        Raises:
            SettingsError: the box head cannot be compressed, or not to these ranks.
        """
        settings, state = compressed_state(self.detector, ranks, factors)
        state = {f"detector.{name}": tensor for name, tensor in state.items()}
        return self.with_settings(settings, state=state)

    def with_settings(
        self,
        settings: DetectorSettings | None = None,
        *,
        state: Mapping[str, Tensor] | None = None,
        recipe: Recipe | None = None,
        scheme: Scheme | None = None,
        seed: int | None = None,
        plus_one: bool | None = None,
        weights: str | None = None,
        speed: SpeedSettings | None = None,
    ) -> DetectionModule:
        """Return a copy of this module in which only what is given differs.

        The copy keeps the system, the training or evaluation mode, the device and the precision.
        An argument that is None keeps the module's own value; see the class for their meaning.
        ``state`` is the state dict of the copy, where ``settings`` change names or shapes of
        tensors: what it lacks starts at random. The module's own has to fit.

        Raises:
            SettingsError: the settings do not fit the system or the scheme.
            RuntimeError: a tensor of the state does not fit the settings.
        """
        copy = type(self)(
            settings or self.settings,
            system=self.system,
            recipe=recipe or self.recipe,
            scheme=scheme or self.scheme,
            seed=self.seed if seed is None else seed,
            plus_one=self.plus_one if plus_one is None else plus_one,
            weights=self.weights if weights is None else weights,
            speed=speed or self.speed,
        )
        copy.to(self.device, self.dtype).train(self.training)
        # A given state may lack tensors, but none may be left over.
        partial = state is not None and state.keys() <= copy.state_dict().keys()
        copy.load_state_dict(self.state_dict() if state is None else state, strict=not partial)
        return copy


def _check_scheme(scheme: Scheme, detector: Detector) -> None:
    """Refuse a scheme that the detector cannot carry out, and name the setting to change."""
    if scheme != "exact":
        return
    if not isinstance(detector, FasterRCNN):
        raise SettingsError(
            f"scheme='exact' is not possible: {type(detector).__name__} does not find and classify "
            "regions together. It needs model=faster_rcnn; other systems take scheme=joint."
        )
    pooling = detector.settings.pooling
    needs = "scheme=exact needs pooling=crop or pooling=roi_align, which move with the RoIs"
    require(pooling.kind in ("crop", "roi_align"), "pooling.kind", pooling.kind, needs)
    if pooling.kind == "roi_align":
        needs = "scheme=exact needs a fixed number of samples, 1 or more"
        require(pooling.sampling_ratio > 0, "pooling.sampling_ratio", pooling.sampling_ratio, needs)
        needs = "scheme=exact on a feature pyramid needs pooling=crop"
        require(detector.backbone.roi_levels == 1, "pooling.kind", pooling.kind, needs)
