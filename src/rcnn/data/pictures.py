"""Pictures as people hand them over: paths, PIL images, arrays, tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

from rcnn.data.decoding import read_image

Picture = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a PIL image, a ``uint8`` array ``(h, w, 3)`` or ``(h, w)``, or a tensor ``(3, h, w)``."""


def as_images(pictures: Sequence[Picture]) -> list[Shaped[Tensor, "3 _ _"]]:
    """Return each picture as an RGB tensor; files and PIL images as their viewer would show them.

    Raises:
        ValueError: a picture has a shape or type that cannot be an image; its position is named.
        DataError: a path leads to no file, or to one that is no picture.
    """
    return [_as_image(picture, position) for position, picture in enumerate(pictures)]


def _as_image(picture: Picture, position: int) -> Tensor:
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3:
            raise ValueError(
                f"Picture {position} is a tensor of shape {tuple(picture.shape)}, not (3, h, w)."
            )
        return picture
    if isinstance(picture, str | Path):
        return read_image(Path(picture))
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    if not isinstance(picture, np.ndarray):
        raise ValueError(f"Picture {position} is a {type(picture).__name__}, not a picture.")
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"Picture {position} is an array {picture.shape} of {picture.dtype}, "
            "not (h, w, 3) or (h, w) of uint8."
        )
    # (h, w, 3) -> (3, h, w)
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
