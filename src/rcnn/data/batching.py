"""Samples into a minibatch.

Letters: B images, P proposals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.data.samples import DetectionBatch, Sample
from rcnn.ops import boxes, images
from rcnn.structures import ImageBatch, Proposals, Targets


def collate(samples: Sequence[Sample], multiple: int = 1) -> DetectionBatch:
    """Pad pictures, objects and proposals of several samples to one shape.

    Args:
        samples: at least one.
        multiple: height and width of the batch are multiples of it; the largest stride of a
            feature pyramid.

    Raises:
        ValueError: if only some of the samples carry proposals.
    """
    pixels, sizes = images.pad([sample.image for sample in samples], multiple)
    batch = ImageBatch(
        pixels=pixels,
        sizes=sizes,
        original_sizes=torch.tensor([sample.original_size for sample in samples]),
    )
    originals = [sample.original for sample in samples if sample.original is not None]
    if len(originals) == len(samples):
        batch = dataclasses.replace(batch, originals=images.pad(originals, 1)[0])
    truths = tuple(sample.truth for sample in samples)
    scaled = [
        dataclasses.replace(truth, boxes=boxes.scale(truth.boxes, factors))
        for truth, factors in zip(truths, batch.scales, strict=True)
    ]
    return DetectionBatch(
        images=dataclasses.replace(batch, proposals=_proposals(samples, batch.scales)),
        targets=Targets.pad(scaled),
        truths=truths,
        image_ids=tuple(sample.image_id for sample in samples),
    )


def _proposals(samples: Sequence[Sample], scales: Float[Tensor, "B 2"]) -> Proposals | None:
    """Stack proposals, if there are any."""
    given = [sample.proposals for sample in samples if sample.proposals is not None]
    if not given:
        return None
    if len(given) < len(samples):
        without = [sample.image_id for sample in samples if sample.proposals is None]
        raise ValueError(
            f"Images {', '.join(without)} have no proposals while others of the batch have. Every "
            "image needs them, if it is an empty list."
        )
    return Proposals.pad(given, scales)
