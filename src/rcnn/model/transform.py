"""The first stage: from pictures of any size to one normalised batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Shaped
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.profiler import record_function

from rcnn.model.backbones import IMAGENET
from rcnn.ops.images import normalise, pad, resize, resized_size
from rcnn.settings import require, settings
from rcnn.structures import ImageBatch


@settings
class ImageSettings:
    """Sizes and colours of the images that a detector sees.

    Attributes:
        shorter_side: length of the shorter side after resizing, in pixels (Fast R-CNN, section
            5.1).
        longer_side: largest length of the longer side, in pixels.
        multiple: the batch is padded to sides divisible by this, in pixels; the largest stride of
            the backbone has to divide it.
        mean: per-channel mean on the 0..1 scale, in the order of ``channels``; null: that of the
            backbone's pretrained weights, which ``DetectorSettings`` fills in.
        std: per-channel standard deviation on the 0..1 scale, in the order of ``channels``; null as
            for ``mean``.
        channels: order in which the network reads colours. Weights from torchvision want ``rgb``,
            weights from Caffe ``bgr``.
        antialias: filter before shrinking; torchvision's released detectors do not.
        test_scales: shorter sides in pixels; each region is classified at the one that brings its
            size closest to ``pooling.canonical_size``, see ``rcnn.model.multiscale``. null:
            all at ``shorter_side``. Proposals and losses always use ``shorter_side``.
    """

    shorter_side: PositiveInt = 600
    longer_side: PositiveInt = 1000
    multiple: PositiveInt = 32
    mean: tuple[float, float, float] | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    antialias: bool = True
    test_scales: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None

    def __post_init__(self) -> None:
        longer, shorter = self.longer_side, self.shorter_side
        allowed = f"it should be at least shorter_side={shorter}"
        require(longer >= shorter, "longer_side", longer, allowed)
        fits = max(self.test_scales or (0,)) <= longer
        allowed = f"every size should be at most longer_side={longer}"
        require(fits, "test_scales", self.test_scales, allowed)


class ImageTransform(nn.Module):
    """Resizes, stacks and normalises images; it has no parameters."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: ImageSettings) -> None:
        super().__init__()
        self.settings = settings
        mean, std = settings.mean or IMAGENET[0], settings.std or IMAGENET[1]
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @record_function("transform")
    def batch(self, images: Sequence[Shaped[Tensor, "3 _ _"]]) -> ImageBatch:
        """Resize images of any size and stack them, on the device of the transform.

        Args:
            images: RGB, ``uint8`` in 0..255 or floating point in 0..1, all of one dtype.

        Raises:
            ValueError: for an empty list, mixed dtypes, or an image that is not ``(3, h, w)``.
        """
        if not images:
            raise ValueError("There is no image to detect in: the list is empty.")
        for position, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
                raise ValueError(f"Image {position} has shape {tuple(image.shape)}, not (3, h, w).")
            if image.dtype != images[0].dtype:
                raise ValueError(f"Image {position} is {image.dtype}, image 0 {images[0].dtype}.")
        device = self.mean.device
        original = [(image.shape[-2], image.shape[-1]) for image in images]
        # A filter rounds to bytes as the training data was rounded; torchvision's detectors, which
        # do not filter, resize in floating point.
        exact = not self.settings.antialias and images[0].dtype == torch.uint8
        resized = [
            resize(
                image.to(device).float() / 255 if exact else image.to(device),
                resized_size(size, self.settings.shorter_side, self.settings.longer_side),
                antialias=self.settings.antialias,
            )
            for image, size in zip(images, original, strict=True)
        ]
        pixels, sizes = pad(resized, self.settings.multiple)
        batch = ImageBatch(pixels, sizes.to(device), torch.tensor(original, device=device))
        if self.settings.test_scales is None:
            return batch
        originals, _ = pad([image.to(device) for image in images], 1)
        return dataclasses.replace(batch, originals=originals)

    def at_side(self, batch: ImageBatch, shorter_side: int) -> ImageBatch:
        """Return the images of a batch with another shorter side, without their proposals.

        Args:
            batch: returned itself if its images have these sizes already. Without original pixels
                (from a data module of the user's own) its resized ones are resized again.
            shorter_side: pixels; the limit of the longer side holds.
        """
        longest, antialias = self.settings.longer_side, self.settings.antialias
        sizes, original = batch.sizes.tolist(), batch.original_sizes.tolist()
        wanted = [resized_size((h, w), shorter_side, longest) for h, w in original]
        if wanted == [(h, w) for h, w in sizes]:
            return batch
        have = (batch.pixels, sizes) if batch.originals is None else (batch.originals, original)
        resized = [
            resize(pixels[:, :h, :w], size, antialias)
            for pixels, (h, w), size in zip(*have, wanted, strict=True)
        ]
        pixels, new_sizes = pad(resized, self.settings.multiple)
        return ImageBatch(pixels, new_sizes.to(batch.sizes.device), batch.original_sizes)

    def normalise(self, batch: ImageBatch) -> Float[Tensor, "B 3 H W"]:
        """Return the pixels as the network reads them; the padding is zero."""
        bgr = self.settings.channels == "bgr"
        return normalise(batch.pixels, batch.sizes, self.mean, self.std, bgr=bgr)
