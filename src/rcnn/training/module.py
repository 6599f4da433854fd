"""How far a training has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast, overload

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.loops.progress import _ProcessedTracker
from torch import Tensor

from rcnn.data import DetectionBatch
from rcnn.data.images import Picture
from rcnn.files import whole_file
from rcnn.inference.checkpoint import CHECKPOINT_FORMAT, CHECKPOINT_KEY, read_checkpoint
from rcnn.inference.predict import predict
from rcnn.interop import load_torchvision
from rcnn.metrics.suite import Scores
from rcnn.model.build import build_detector
from rcnn.model.proposal_network import ProposalNetwork
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.model.speed import SpeedSettings, align_state, prepare
from rcnn.settings import from_plain, to_plain
from rcnn.structures import Detections, Losses
from rcnn.training.losses_of import Scheme, check_scheme, losses_of
from rcnn.training.optim import AdamWCosine, Recipe


def batches_done(trainer: pl.Trainer) -> int:
    """Return how many minibatches each process of a training has behind it, resumed ones included.

    All that is random about a step hangs on this number. Lightning's epochs do not serve: it opens
    the loader before it names the epoch, and a run of ``max_steps`` that is resumed from the end of
    an epoch counts that epoch twice (seen with Lightning 2.6.6).
    """
    # Typed as its base class, which does not count what is processed.
    total = cast(_ProcessedTracker, trainer.fit_loop.epoch_loop.batch_progress.total)
    return total.processed


class DetectionModule(pl.LightningModule):
    """A two-stage detector that Lightning can train, validate and test.

    Its checkpoints hold all that is needed to use it elsewhere, as plain numbers and strings:
    settings, class names, weights. ``DetectionModule.load_from_checkpoint(path)`` needs no config
    file and executes nothing from the file.

    Args:
        settings: of the detector, or their plain form.
        system: which detector, see :mod:`rcnn.model.build`.
        recipe: makes the optimiser; by default AdamW with a cosine schedule.
        scheme: how the stages learn together, see :mod:`rcnn.training.schemes`.
        seed: of the samplers. What a step draws depends on this, the number of the minibatch and
            the process only, so that a resumed run draws the same.
        plus_one: VOC's metric counts pixels inclusively.
        weights: where the backbone's weights came from, for the record.
        speed: how the detector is run; no checkpoint holds it.
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
        self.scheme = scheme
        check_scheme(scheme, self.detector)
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
        losses = losses_of(self.scheme, self.detector, batch.images, batch.targets, generator)
        self._log_losses("train", losses, len(batch), on_step=True)
        return {"loss": losses.total, "losses": {k: v.detach() for k, v in losses.named.items()}}

    def on_train_start(self) -> None:
        """Open the loader of a resumed training where that training is."""
        # The optimiser asks for the number of steps, and Lightning opens the loader to count them,
        # before it restores how far the training has come.
        fetcher = self.trainer.fit_loop._data_fetcher
        if batches_done(self.trainer) and fetcher is not None:
            iter(fetcher)

    def configure_optimizers(self) -> Any:
        """Return what the recipe makes for a run of the trainer's length."""
        trainer = self.trainer
        optimizer, schedule = self.recipe(
            self.detector,
            total_steps=trainer.estimated_stepping_batches,
            images_per_step=trainer.accumulate_grad_batches
            * trainer.world_size
            * self._batch_size(),
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
        self._log_losses("val", result.losses, len(batch), on_step=False)
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

    def _log_scores(self, split: str, scores: Scores) -> None:
        headline, self.per_class[split] = scores.compute()
        scores.reset()
        # Every process has computed the same values from all images.
        self.log_dict(
            {f"{split}/{name}": value for name, value in headline.items()}, sync_dist=True
        )

    # --- prediction -------------------------------------------------------------------------

    def predict_step(self, batch: DetectionBatch) -> list[Detections]:
        """Return the detections of a minibatch, for ``Trainer.predict``."""
        return self.detector.detect_batch(batch.images)[0]

    # A path is a text, and a text a sequence: mypy takes the two for one.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        images: Picture,
        batch_size: int = ...,
        proposals: Sequence[Float[Tensor, "_ 4"]] | None = ...,
    ) -> Detections: ...

    @overload
    def predict(
        self,
        images: Sequence[Picture],
        batch_size: int = ...,
        proposals: Sequence[Float[Tensor, "_ 4"]] | None = ...,
    ) -> list[Detections]: ...

    def predict(
        self,
        images: Picture | Sequence[Picture],
        batch_size: int = 2,
        proposals: Sequence[Float[Tensor, "_ 4"]] | None = None,
    ) -> Detections | list[Detections]:
        """Return what is in one picture, or in each of a list.

        Args:
            images: paths, PIL images, ``uint8`` arrays ``(h, w, 3)``, tensors ``(3, h, w)``, or a
                list of them.
            batch_size: how many go through the network at once.
            proposals: for a system that makes none: boxes of each picture in its pixels, best
                first.

        Returns:
            Detections on the CPU, in pixels of each picture; one for one, a list for a list.
        """
        return predict(self.detector, images, batch_size, proposals)

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
            checkpoint_path: a file that a training run wrote.
            map_location: the device of the module.
            recipe: for training on; see the class.
            speed: how the detector is run.

        Raises:
            CheckpointError: the file is missing, damaged, or none of this package's.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        record = checkpoint[CHECKPOINT_KEY]
        module = cls(
            record["settings"],
            system=record["system"],
            recipe=recipe,
            scheme=record["scheme"],
            seed=record["seed"],
            weights=record["weights"],
            speed=speed,
        )
        module.load_state_dict(checkpoint["state_dict"])
        return module.to(map_location)

    def for_classes(
        self, class_names: Sequence[str], recipe: Recipe | None = None
    ) -> DetectionModule:
        """Return a module for other classes that starts from this one's weights.

        All layers are copied but the two outputs of the box head, which start anew.

        Args:
            class_names: of the new classes 1..K.
            recipe: for training on; by default this module's.
        """
        settings = replace(
            self.settings,
            class_names=tuple(class_names),
            deltas=DeltaSettings(),  # what was measured was measured on the other classes
        )
        module = self._without_weights(
            settings, recipe=recipe, weights=f"detector of {', '.join(self.class_names)}"
        )
        state = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith("detector.roi_heads.box_predictor.")
        }
        module.load_state_dict(state, strict=False)
        return module

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
        An argument that is None keeps the module's own value; for their meaning see the class.

        Args:
            settings: settings of the detector.
            state: state dict of the copy, where ``settings`` change names or shapes of tensors; by
                default the module's own.
            recipe: factory of the optimiser.
            scheme: training scheme.
            seed: seed of the samplers.
            plus_one: whether VOC's metric counts pixels inclusively.
            weights: origin of the backbone's weights.
            speed: how the detector is run.

        Raises:
            SettingsError: the settings do not fit the system or the scheme.
            RuntimeError: the state does not fit the settings.
        """
        module = self._without_weights(
            settings,
            recipe=recipe,
            scheme=scheme,
            seed=seed,
            plus_one=plus_one,
            weights=weights,
            speed=speed,
        )
        module.load_state_dict(self.state_dict() if state is None else state)
        return module

    def _without_weights(
        self,
        settings: DetectorSettings | None = None,
        *,
        recipe: Recipe | None = None,
        scheme: Scheme | None = None,
        seed: int | None = None,
        plus_one: bool | None = None,
        weights: str | None = None,
        speed: SpeedSettings | None = None,
    ) -> DetectionModule:
        """Return what :meth:`with_settings` returns, with random weights."""
        module = type(self)(
            settings or self.settings,
            system=self.system,
            recipe=recipe or self.recipe,
            scheme=scheme or self.scheme,
            seed=self.seed if seed is None else seed,
            plus_one=self.plus_one if plus_one is None else plus_one,
            weights=self.weights if weights is None else weights,
            speed=speed or self.speed,
        )
        return module.to(self.device, self.dtype).train(self.training)

    # --- helpers of the loop ----------------------------------------------------------------

    def _generator(self, number: int) -> torch.Generator:
        """Return the randomness of the minibatch of this number in one process."""
        seed = hash((self.seed, number, self.global_rank)) & 0x7FFF_FFFF_FFFF_FFFF
        return torch.Generator(self.device).manual_seed(seed)

    def _batch_size(self) -> int:
        data = getattr(self.trainer, "datamodule", None)
        return int(getattr(data, "batch_size", 1))

    def _log_losses(self, split: str, losses: Losses, images: int, *, on_step: bool) -> None:
        counts = losses.counts.named if on_step else {}
        how: dict[str, Any] = {
            "on_step": on_step,
            "on_epoch": not on_step,
            "sync_dist": not on_step,
            "batch_size": images,
        }
        # Not for Lightning's bar: it would read, and so wait for, each of them at every step.
        self.log(f"{split}/loss", losses.total, **how)
        terms = {f"{split}/loss_{name}": term for name, term in losses.named.items()}
        self.log_dict(terms, **how)
        self.log_dict({f"{split}/{name}": n.float() for name, n in counts.items()}, **how)


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    torchvision_builder: str | None = None,
    class_names: Sequence[str] | None = None,
    norm_eps: float | None = None,
) -> DetectionModule:
    """Return a module in evaluation mode, ready to predict and to be trained on.

    Args:
        path: a checkpoint of this package, or a state dict of a torchvision Faster R-CNN.
        device: where the module shall be.
        torchvision_builder: the torchvision function whose state dict the file is, such as
            ``fasterrcnn_resnet50_fpn``; null for a checkpoint of this package.
        class_names: of a torchvision state dict's classes, without background; null: COCO's.
        norm_eps: of its batch norms, see :func:`rcnn.interop.load_torchvision`.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    if torchvision_builder is None:
        module = DetectionModule.load_from_checkpoint(path)
    else:
        detector = load_torchvision(path, torchvision_builder, class_names, norm_eps)
        module = DetectionModule(detector.settings, weights=str(path))
        module.detector.load_state_dict(detector.state_dict())
    return module.to(device).eval()


def save(module: DetectionModule, path: str | Path) -> None:
    """Write a checkpoint of a module without a trainer, for use and to start from.

    It has no state of an optimiser, so that no interrupted training can go on from it. The file is
    written whole or not at all.
    """
    checkpoint: dict[str, Any] = {
        "pytorch-lightning_version": version("pytorch-lightning"),
        "epoch": 0,
        "global_step": 0,
        "state_dict": module.state_dict(),
    }
    module.on_save_checkpoint(checkpoint)
    with whole_file(path) as partial:
        torch.save(checkpoint, partial)
