"""From the tensors of a detector to pictures and back.

Letters: (h, w) of one image, (H, W) of the padded batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from rcnn.structures import ImageBatch


def to_uint8(image: Shaped[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    """Return an image as bytes on the CPU.

    Args:
        image: RGB, ``uint8`` or floating point in 0..1, not normalised.

    Raises:
        ValueError: the values lie outside 0..1, so that this is a normalised image or one in
            0..255, or the dtype is of another kind.
    """
    image = image.detach().cpu()
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ValueError(
            f"an image to draw on is uint8 or floating point in 0..1, this one is {image.dtype}: "
            "convert it with image.to(torch.uint8) if its values lie in 0..255"
        )
    image = image.float()
    low, high = (value.item() for value in image.aminmax())
    # Resizing may overshoot by a rounding error, which is no reason to refuse a picture.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"a floating point image to draw on has values in 0..1, this one in {low:g}..{high:g}: "
            "pass the pixels as they were before the detector normalised them"
        )
    converted: Tensor = transforms.to_dtype(image.clamp(0, 1), torch.uint8, scale=True)
    return converted


def image_of(batch: ImageBatch, index: int) -> UInt8[Tensor, "3 h w"]:
    """Return one image of a minibatch as bytes, without its padding."""
    height, width = batch.sizes[index].tolist()
    return to_uint8(batch.pixels[index, :, :height, :width])


def to_pil(image: UInt8[Tensor, "3 h w"]) -> Image.Image:
    """Return a new PIL image, which shares no memory with the tensor.

    Raises:
        ValueError: the image is not ``uint8``.
    """
    if image.dtype != torch.uint8:
        raise ValueError(
            f"pictures are drawn on uint8 images, this one is {image.dtype}: "
            "convert it with rcnn.view.to_uint8 (from 0..1) first"
        )
    return Image.fromarray(image.detach().cpu().permute(1, 2, 0).numpy())


def from_pil(picture: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Return an RGB picture as a tensor, as TensorBoard's ``add_image`` takes it."""
    tensor: Tensor = transforms.pil_to_tensor(picture)
    return tensor
