"""The images on which a command measures how fast a detector is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rcnn.data import DetectionDataset, as_images, collate, resized
from rcnn.model.build import needs_proposals
from rcnn.structures import ImageBatch, Proposals
from rcnn.training import DetectionModule

SHOWN = 4
"""How many images of a data set are timed."""


def timed_images(
    module: DetectionModule,
    pictures: Sequence[str],
    dataset: DetectionDataset | None,
    rois: int,
    seed: int = 0,
) -> list[ImageBatch]:
    """Return images one by one, on the module's device, with proposals if the detector makes none.

    They are the given pictures, else the first of a data set, else one of noise in the size that
    the detector works at. Proposals are those of the data set, else boxes at random.

    Args:
        module: the detector.
        pictures: their files.
        dataset: with proposals, if the detector makes none.
        rois: how many boxes are drawn.
        seed: of noise and boxes.
    """
    if dataset is not None and not pictures:
        return [_of_dataset(module, dataset, index) for index in range(min(SHOWN, len(dataset)))]
    generator = torch.Generator().manual_seed(seed)
    images = as_images(list(pictures)) if pictures else [_noise(module, generator)]
    batches = [module.detector.transform.batch([image]) for image in images]
    if not needs_proposals(module.system):
        return batches
    return [
        replace(batch, proposals=Proposals.pad([_boxes(image, rois, generator)], batch.scales))
        for image, batch in zip(images, batches, strict=True)
    ]


def _of_dataset(module: DetectionModule, dataset: DetectionDataset, index: int) -> ImageBatch:
    images = module.settings.images
    small = resized(dataset[index], images.shorter_side, images.longer_side, images.antialias)
    return collate([small], images.multiple).images.to(module.device)


def _noise(module: DetectionModule, generator: torch.Generator) -> UInt8[Tensor, "3 h w"]:
    size = (module.settings.images.shorter_side, module.settings.images.longer_side)
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)


def _boxes(
    image: UInt8[Tensor, "3 h w"], rois: int, generator: torch.Generator
) -> Float[Tensor, "R 4"]:
    """Draw two corners of each box."""
    corners = torch.rand(rois, 2, 2, generator=generator).sort(dim=1).values  # (R, corner, xy)
    height, width = image.shape[-2:]
    return (corners * torch.tensor([width, height])).flatten(1)
