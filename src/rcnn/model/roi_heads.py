"""The second stage of every system: what is in each region, and where exactly.

Letters: B images, R RoIs per image, P proposals, K classes, C channels, S side of a pooled RoI,
F features of a RoI, D sets of deltas.

=============  =========================================  ================================
stage          in                                         out
=============  =========================================  ================================
sampling       Proposals ``B P 4``, targets ``B G 4``     RoISamples ``B R 4``
pooling        features, RoIs ``B R 4``                   ``BR C S S``
box head       ``BR C S S``                               ``BR F``
box predictor  ``BR F``                                   logits ``B R K+1``, deltas ``B R D 4``
losses         logits, deltas, RoISamples                 two terms
detect         logits, deltas, Proposals                  a list of Detections
=============  =========================================  ================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.profiler import record_function

from rcnn.model.backbones import BoxHead
from rcnn.model.box_predictor import BoxPredictions, BoxPredictor
from rcnn.model.losses import PerRoILosses, per_roi_losses, roi_losses
from rcnn.model.multiscale import Features, ScaledFeatures, pool_at_nearest_scale
from rcnn.model.postprocess import postprocess
from rcnn.model.roi_pooling import Pooler
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import label_rois, sample_rois
from rcnn.ops.sampling import hard_rois
from rcnn.structures import (
    Detections,
    ImageBatch,
    Losses,
    Proposals,
    RoISamples,
    SampleCounts,
    Targets,
)


class RoIHeads(nn.Module):
    """Samples RoIs, pools their features, and classifies and refines them.

    Args:
        settings: settings of the sampling, the two outputs, the losses and the detections.
        pooler: turns the images' features and RoIs into the features of each RoI. The difference
            between R-CNN and its successors lies here.
        box_head: turns pooled features into a vector for each RoI.
    """

    delta_mean: Tensor
    delta_std: Tensor

    def __init__(self, settings: DetectorSettings, pooler: Pooler, box_head: BoxHead) -> None:
        super().__init__()
        num_classes = len(settings.class_names)
        self.settings = settings
        self.pooler = pooler
        self.box_head = box_head
        self.box_predictor = BoxPredictor(settings.box_predictor, box_head.channels, num_classes)
        mean, std = settings.deltas.tables(num_classes)
        self.register_buffer("delta_mean", mean, persistent=False)
        self.register_buffer("delta_std", std, persistent=False)

    def losses(
        self,
        features: Features,
        proposals: Proposals,
        targets: Targets,
        generator: torch.Generator | None = None,
    ) -> tuple[Losses, RoISamples]:
        """Sample RoIs from the proposals and return their class and box loss, and the sample."""
        rois = self.sample(features, proposals, targets, generator)
        logits, deltas = self.predict(features, rois.boxes)
        with record_function("losses"):
            classes, boxes = roi_losses(self._per_roi_losses(logits, deltas, rois), rois.labels)
        counts = SampleCounts(
            rois_foreground=(rois.labels > 0).sum(), rois_background=(rois.labels == 0).sum()
        )
        return Losses(roi_classes=classes, roi_boxes=boxes, counts=counts), rois

    def detect(
        self,
        features: Features,
        proposals: Proposals,
        batch: ImageBatch,
        scales: Sequence[ScaledFeatures] = (),
    ) -> list[Detections]:
        """Classify and refine proposals into detections, in original pixels.

        Args:
            features: features of the images.
            proposals: RoIs, in pixels of the batch.
            batch: sizes and scales of the images.
            scales: features at the test scales, if each RoI is to be pooled at its nearest one.
        """
        proposals = trim(proposals)
        logits, deltas = self.predict(features, proposals.boxes, scales)
        if deltas is not None:
            sets = deltas.shape[-2]  # D
            deltas = deltas * self.delta_std[-sets:] + self.delta_mean[-sets:]
        with record_function("detections"):
            limits, names = self.settings.detections, self.settings.class_names
            classifier = self.settings.box_predictor.classifier
            return postprocess(proposals, logits, deltas, batch, limits, names, classifier)

    @record_function("roi targets")
    def sample(
        self,
        features: Features,
        proposals: Proposals,
        targets: Targets,
        generator: torch.Generator | None = None,
    ) -> RoISamples:
        """Choose the RoIs to train on: a random sample, or the ones with the largest loss."""
        settings = self.settings.roi_sampling
        if not settings.ohem:
            return sample_rois(proposals, targets, settings, generator)
        # All candidates pass through the network once, without gradient and as in evaluation
        # (Shrivastava et al. 2016, section 4): batch norms count only the RoIs that are trained
        # on, and dropout does not blur the order.
        candidates = label_rois(proposals, targets, settings)
        with torch.no_grad(), eval_mode(self):
            logits, deltas = self.predict(features, candidates.boxes.detach())
            losses = self._per_roi_losses(logits, deltas, candidates).total
        # Older versions of torch would reuse weights that autocast has cast without gradient.
        torch.clear_autocast_cache()
        return hard_rois(candidates, losses, settings.rois_per_image(len(losses)))

    def predict(
        self,
        features: Features,
        rois: Float[Tensor, "B R 4"],
        scales: Sequence[ScaledFeatures] = (),
    ) -> BoxPredictions:
        """Return logits (B, R, K + 1) and normalised deltas (B, R, D, 4) of RoIs."""
        if scales:
            size = self.settings.pooling.canonical_size
            pooled = pool_at_nearest_scale(self.pooler, scales, rois, size)
        else:
            pooled = self.pooler(features, rois)
        with record_function("box head"):
            logits, deltas = self.box_predictor(self.box_head(pooled))
        # (B R, ...) -> (B, R, ...)
        deltas = None if deltas is None else deltas.unflatten(0, rois.shape[:2])
        return BoxPredictions(logits.unflatten(0, rois.shape[:2]), deltas)

    def _per_roi_losses(
        self,
        logits: Float[Tensor, "B R K1"],
        deltas: Float[Tensor, "B R D 4"] | None,
        rois: RoISamples,
    ) -> PerRoILosses:
        losses, classifier = self.settings.losses, self.settings.box_predictor.classifier
        normalisation = self.delta_mean, self.delta_std
        return per_roi_losses(logits, deltas, rois, losses, classifier, *normalisation)


def trim(proposals: Proposals) -> Proposals:
    """Cut off the last slots if no image uses them: of 300, small images fill half.

    On a CPU each costs a pass through the box head. On a GPU it costs little, and counting them
    would wait for the device.
    """
    if proposals.valid.device.type != "cpu":
        return proposals
    used = proposals.valid.any(dim=0).nonzero()
    count = int(used[-1]) + 1 if len(used) else 1  # one slot, so that no stage is empty
    return Proposals(
        proposals.boxes[:, :count], proposals.scores[:, :count], proposals.valid[:, :count]
    )


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and its parts into evaluation mode, and each back into its own afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
