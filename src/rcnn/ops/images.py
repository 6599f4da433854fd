"""Images on their way into a detector: size, padding and normalisation.

Letters: B images, (h, w) of one image, (H, W) of the padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def resized_size(size: tuple[int, int], shorter_side: int, longer_side: int) -> tuple[int, int]:
    """Return the (height, width) at which an image enters the network.

    The shorter side becomes ``shorter_side``, unless the longer one would then exceed
    ``longer_side`` (Fast R-CNN, section 5.1: 600 and 1000 pixels). Sides are rounded down, as
    torchvision does it.
    """
    height, width = size
    factor = min(shorter_side / min(size), longer_side / max(size))
    return max(int(height * factor), 1), max(int(width * factor), 1)


def resize(
    image: Shaped[Tensor, "3 h w"], size: tuple[int, int], antialias: bool = True
) -> Shaped[Tensor, "3 h2 w2"]:
    """Return an image resized bilinearly, in its own dtype.

    Args:
        image: ``uint8`` or floating point.
        size: new (height, width), in pixels.
        antialias: apply a low-pass filter before shrinking; torchvision's detectors do not.
    """
    if tuple(image.shape[-2:]) == size:
        return image
    # interpolate reads bytes only on a CPU and with the filter.
    readable = image.is_floating_point() or (antialias and image.device.type == "cpu")
    source = image if readable else image.float()
    resized = F.interpolate(source[None], size=size, mode="bilinear", antialias=antialias)[0]
    if resized.dtype == image.dtype:
        return resized
    return resized.round().clamp(0, 255).to(image.dtype)


def pad(
    images: Sequence[Shaped[Tensor, "3 _ _"]], multiple: int
) -> tuple[Shaped[Tensor, "B 3 H W"], Int[Tensor, "B 2"]]:
    """Return images of one dtype at the top left of a batch of zeros, and their (height, width).

    Both sides of the batch are divisible by ``multiple``.
    """
    sizes = torch.tensor([tuple(image.shape[-2:]) for image in images])
    height, width = (-(-side // multiple) * multiple for side in sizes.amax(0).tolist())
    pixels = images[0].new_zeros(len(images), 3, height, width)
    for padded, image in zip(pixels, images, strict=True):
        padded[:, : image.shape[-2], : image.shape[-1]] = image
    return pixels, sizes


def normalise(
    pixels: Shaped[Tensor, "B 3 H W"],
    sizes: Int[Tensor, "B 2"],
    mean: Float[Tensor, " 3"],
    std: Float[Tensor, " 3"],
    bgr: bool = False,
) -> Float[Tensor, "B 3 H W"]:
    """Return ``(pixels - mean) / std``, with zeros in the padding.

    Args:
        pixels: RGB, ``uint8`` in 0..255 or floating point in 0..1.
        sizes: (height, width) of each image inside the padding.
        mean: per-channel mean on the 0..1 scale, **in the order of the network's channels**.
        std: per-channel standard deviation on the 0..1 scale, in the same order.
        bgr: whether the network reads blue, green, red (weights from Caffe).
    """
    values = pixels if pixels.is_floating_point() else pixels.float() / 255
    if bgr:
        values = values.flip(1)
    values = (values - mean[:, None, None]) / std[:, None, None]
    rows = torch.arange(pixels.shape[2], device=sizes.device) < sizes[:, 0, None]
    columns = torch.arange(pixels.shape[3], device=sizes.device) < sizes[:, 1, None]
    return values * (rows[:, None, :, None] & columns[:, None, None, :])
