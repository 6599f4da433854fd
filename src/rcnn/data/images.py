"""Image files into pixels: ``uint8``, RGB, ``3 H W``.

Pillow reads everything, and decodes a JPEG as fast as torchvision, whose decoders are deprecated
since torchvision 0.29. As its pixels have to be copied out of it, reading and resizing take an
eighth longer than with torchvision (``python -m benchmarks loading``).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from rcnn.data.errors import DataError

ORIENTATION = 0x0112  # EXIF tag: how the stored picture is turned
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB\x60\x82"}

# JPEG: marker, kind and length of a segment; in a frame header precision, height and width follow.
FRAME = struct.Struct(">BBHBHH")
FRAMES = (0xC0, 0xC1, 0xC2)
SKIPPED = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)} - {0xE1}  # tables, comments; no EXIF
HEAD = 4096  # bytes in which a size is looked for without Pillow

# What Pillow's parsers let through when a file is broken.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error)


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its picture before it is decoded.

    Attributes:
        size: stored (height, width).
        turned_size: (height, width) after the EXIF orientation is applied.
        has_end: whether the file ends with its format's end marker; True for formats without one.
    """

    size: tuple[int, int]
    turned_size: tuple[int, int]
    has_end: bool


def read_header(file: Path) -> ImageHeader:
    """Look at the two ends of an image file, without decoding it.

    Raises:
        DataError: if there is no such file, or it is no image.
    """
    try:
        with file.open("rb") as stream:
            if (size := _plain_jpeg_size(stream.peek(HEAD))) is not None:
                stream.seek(-2, os.SEEK_END)
                return ImageHeader(size, size, stream.read() == END_MARKERS["JPEG"])
            image = Image.open(stream)
            width, height = image.size
            turned = (width, height) if _orientation(image) >= 5 else (height, width)
            marker = END_MARKERS.get(image.format or "", b"")
            stream.seek(0, os.SEEK_END)
            stream.seek(max(stream.tell() - len(marker), 0))
            return ImageHeader((height, width), turned, stream.read() == marker or not marker)
    except BROKEN as error:
        raise _unreadable(file, error) from error


def read_image(file: Path, size: tuple[int, int] | None = None) -> UInt8[Tensor, "3 H W"]:
    """Decode an image file.

    Grey, palette and CMYK pictures become RGB, transparency is dropped, and 16 bits keep their
    upper half.

    Args:
        file: in any format that Pillow reads.
        size: the (height, width) that its annotation states. It decides whether the picture is
            turned as its EXIF orientation says: not if ``size`` is the stored size, else yes.
            Without it the picture comes as a viewer shows it, turned.

    Raises:
        DataError: if the file is missing, broken or cut off, or has neither way round ``size``.
    """
    try:
        with Image.open(file) as image:
            image.load()
            pixels = _rgb(image, file)
            turn = TURNS.get(_orientation(image))
            if turn is not None and size != (image.height, image.width):
                pixels = np.array(Image.fromarray(pixels).transpose(turn))
    except DataError:
        raise
    except BROKEN as error:
        raise _unreadable(file, error) from error
    if size not in (None, pixels.shape[:2]):
        raise wrong_size(str(file), size, (pixels.shape[:2],))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def wrong_size(
    where: str, annotated: tuple[int, int], found: tuple[tuple[int, int], ...]
) -> DataError:
    """Return the error for an annotation that was made on a picture of another size."""
    sizes = " or ".join(f"{width} x {height}" for height, width in dict.fromkeys(found))
    return DataError.about(
        "wrong image size",
        where=where,
        found=f"annotated as {annotated[1]} x {annotated[0]}, the image file has {sizes}",
        allowed="Width and height of annotation and file have to agree",
    )


def _plain_jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Return the (height, width) of a JPEG, or None where Pillow has to look.

    Pillow reads all tables of a header, which takes most of the time in which a large data set is
    opened. Here the segments are skipped up to the one with the size. EXIF data and whatever is
    unusual are left to Pillow.
    """
    place = 2
    while head[:2] == b"\xff\xd8" and len(head) >= place + 9:
        marker, kind, length, precision, height, width = FRAME.unpack_from(head, place)
        if marker == 0xFF and kind in FRAMES and precision == 8 and height > 0 < width:
            return height, width
        if marker != 0xFF or kind not in SKIPPED:
            return None
        place += 2 + length
    return None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (*BROKEN, TypeError):
        return 1  # broken EXIF data: viewers show the picture as it is stored


def _rgb(image: Image.Image, file: Path) -> UInt8[np.ndarray, "H W 3"]:
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if sixteen_bits:
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise DataError.about(
            "unreadable image",
            where=str(file),
            found=f"pixels of mode {image.mode!r}, whose brightness has no agreed range",
            allowed="Store the picture with 8 or 16 unsigned bits a channel",
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _unreadable(file: Path, error: Exception) -> DataError:
    missing = isinstance(error, FileNotFoundError)
    return DataError.about(
        "missing image" if missing else "unreadable image",
        where=str(file),
        found="there is no such file" if missing else f"{type(error).__name__}: {error}",
        allowed="It has to be a complete image file, for example JPEG or PNG",
    )


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
