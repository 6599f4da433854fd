"""The second stage of every system: what is in each region, and where exactly.

Letters: B images, R RoIs per image, P proposals, K classes, C channels, S side of a pooled RoI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.model.backbones import Body, Tail
from rcnn.model.box_head import BoxHead, HeadOutput
from rcnn.model.losses import RoITerms, roi_losses, roi_terms
from rcnn.model.postprocess import postprocess
from rcnn.model.roi_pooling import PoolingSettings, pool_rois
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import label_rois, sample_rois
from rcnn.ops.sampling import hardest_rois
from rcnn.structures import (
    Detections,
    ImageBatch,
    Losses,
    Proposals,
    RoISamples,
    SampleCounts,
    Targets,
)

Pool = Callable[[Float[Tensor, "B R 4"]], Float[Tensor, "B*R C _ _"]]
"""Gives the features of RoIs, which are in pixels of the resized images."""


def pool_from(
    levels: Sequence[Float[Tensor, "B C _ _"]], body: Body, settings: PoolingSettings
) -> Pool:
    """Return what pools RoIs from those levels of the body's features that serve them."""
    count = body.roi_levels
    return partial(pool_rois, levels[:count], body.strides[:count], settings=settings)


def without_empty_places(proposals: Proposals) -> Proposals:
    """Cut off the last places if no image uses them: of 300, small images fill half.

    On a processor each costs a pass through the tail. A GPU, for which it costs little, would have
    to be waited for.
    """
    if proposals.valid.device.type != "cpu":
        return proposals
    used = proposals.valid.any(dim=0).nonzero()
    count = int(used[-1]) + 1 if len(used) else 1  # one place, so that every stage has some
    return Proposals(
        proposals.boxes[:, :count], proposals.scores[:, :count], proposals.valid[:, :count]
    )


class RegionStage(nn.Module):
    """The backbone's tail and the box head, on the features of each RoI.

    How these features come about makes the difference between R-CNN, SPP-net and Fast R-CNN; the
    stage is told by a function from RoIs to features.
    """

    delta_mean: Tensor
    delta_std: Tensor

    def __init__(self, settings: DetectorSettings, tail: Tail) -> None:
        super().__init__()
        self.settings = settings
        self.tail = tail
        classes = len(settings.class_names)
        self.head = BoxHead(settings.head, tail.channels, classes)
        mean, std = settings.deltas.tables(classes)
        self.register_buffer("delta_mean", mean, persistent=False)
        self.register_buffer("delta_std", std, persistent=False)

    def learn(
        self,
        pool: Pool,
        proposals: Proposals,
        targets: Targets,
        generator: torch.Generator | None = None,
    ) -> tuple[Losses, RoISamples]:
        """Return the class and the box loss of RoIs chosen among the proposals, and these RoIs."""
        if self.settings.roi_sampling.mining == "hard":
            rois = self.mine(pool, proposals, targets)
        else:
            rois = self.sample(proposals, targets, generator)
        classes, boxes = roi_losses(self._terms(pool, rois, rois.boxes), rois.labels)
        counts = SampleCounts(
            rois_foreground=(rois.labels > 0).sum(), rois_background=(rois.labels == 0).sum()
        )
        return Losses(roi_classes=classes, roi_boxes=boxes, counts=counts), rois

    def sample(
        self, proposals: Proposals, targets: Targets, generator: torch.Generator | None
    ) -> RoISamples:
        """Draw the RoIs to learn from."""
        settings = self.settings.roi_sampling
        return sample_rois(proposals, targets, settings, self.delta_mean, self.delta_std, generator)

    def mine(self, pool: Pool, proposals: Proposals, targets: Targets) -> RoISamples:
        """Choose the RoIs with the largest loss (OHEM: Shrivastava et al. 2016, section 4).

        All candidates pass through the network once, without gradient and as in evaluation: batch
        norms count only the RoIs that are learned from, and no dropout blurs the order.
        """
        settings = self.settings.roi_sampling
        candidates = label_rois(proposals, targets, settings, self.delta_mean, self.delta_std)
        with torch.no_grad(), evaluating(self):
            losses = self._terms(pool, candidates, candidates.boxes.detach()).total
        # Older versions of torch would use weights that autocast made without gradient once more.
        torch.clear_autocast_cache()
        return hardest_rois(candidates, losses, settings.share(len(losses)))

    def detect(self, pool: Pool, proposals: Proposals, batch: ImageBatch) -> list[Detections]:
        """Classify and refine proposals into detections, in original pixels."""
        proposals = without_empty_places(proposals)
        settings, (logits, deltas) = self.settings, self._predict(pool, proposals.boxes)
        if deltas is not None:
            sets = deltas.shape[-2]  # D
            deltas = deltas * self.delta_std[-sets:] + self.delta_mean[-sets:]
        limits, classifier = settings.detections, settings.head.classifier
        return postprocess(
            proposals, logits, deltas, batch, limits, settings.class_names, classifier
        )

    def _terms(self, pool: Pool, rois: RoISamples, boxes: Float[Tensor, "B R 4"]) -> RoITerms:
        """Return the loss of each RoI, pooled at ``boxes``."""
        logits, deltas = self._predict(pool, boxes)
        settings = self.settings
        return roi_terms(
            logits,
            deltas,
            rois,
            settings.losses,
            settings.head.classifier,
            self.delta_mean,
            self.delta_std,
        )

    def _predict(self, pool: Pool, rois: Float[Tensor, "B R 4"]) -> HeadOutput:
        """Return logits (B, R, K + 1) and normalised deltas (B, R, D, 4)."""
        logits, deltas = self.head(self.tail(pool(rois)))
        # (B R, ...) -> (B, R, ...)
        places = rois.shape[:2]
        deltas = None if deltas is None else deltas.unflatten(0, places)
        return HeadOutput(logits.unflatten(0, places), deltas)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation, and afterwards each of its parts back to what it did."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
