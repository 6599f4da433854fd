"""Pictures into pixels: ``uint8``, RGB, ``3 H W``.

A picture gives the same pixels as a file, a PIL image, an array and a tensor:

- the EXIF orientation of files and PIL images is applied, as a viewer does;
- grey values are repeated, palettes and CMYK become RGB, transparency is dropped;
- of 16 unsigned bits the upper byte is kept, whatever range the picture uses;
- floating-point values lie in 0..1 and are rounded to bytes.

Everything else is refused, because its brightness would be a guess.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from rcnn.data.errors import DataError

MAX_PIXELS = 1_000_000_000
"""Pixels of the largest picture that is read, for which 3 GB of memory are needed."""

OPENING = threading.Lock()


@contextmanager
def _opened(source: Path | BinaryIO, where: str, max_pixels: int) -> Iterator[Image.Image]:
    """Open a picture; whatever goes wrong with it becomes a ``DataError``.

    Pillow refuses more than 179 million pixels, as an attack on a server. Its limit is a variable
    of the module, so that only one thread at a time may be without it.
    """
    try:
        with OPENING:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(source)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        with image:
            if image.width * image.height > max_pixels:
                raise DataError.about(
                    "too large an image",
                    where=where,
                    found=f"it has {image.width} x {image.height} pixels",
                    allowed=f"At most data.max_pixels={max_pixels} are read",
                )
            yield image
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers let anything through when a file is broken
        raise _unreadable(where, error) from error


def read_image(
    file: Path, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[Tensor, "3 H W"]:
    """Return the pixels of an image file.

    Args:
        file: path of an image in any format that Pillow reads.
        size: (height, width) that the annotation states. A picture of this stored size is not
            turned, even if its EXIF orientation says so: its boxes were drawn without the turn.
        max_pixels: limit of height x width.

    Raises:
        DataError: if the file is missing, broken, cut off or too large, if its brightness has no
            agreed range, or if neither its stored nor its turned size is ``size``.
    """
    with _opened(file, str(file), max_pixels) as image:
        pixels = _decode(image, str(file), size)
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


def _unreadable(where: str, error: Exception) -> DataError:
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    return DataError.about(
        "missing image" if missing else "unreadable image",
        where=where,
        found="there is no such file" if missing else f"{type(error).__name__}: {error}",
        allowed="It has to be a complete image file, for example JPEG or PNG",
    )


ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _decode(
    image: Image.Image, where: str, untouched: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the pixels of a PIL image, turned unless its stored size is ``untouched``."""
    image.load()
    turn = TURNS.get(_orientation(image))
    pixels = _rgb(image, where)
    if turn is None or untouched == (image.height, image.width):
        return pixels
    return np.array(Image.fromarray(pixels).transpose(turn))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1  # broken EXIF data: viewers show the picture as it is stored


def _rgb(image: Image.Image, where: str) -> UInt8[np.ndarray, "H W 3"]:
    # Older versions of Pillow open a 16-bit PNG in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        upper = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(upper[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise DataError.about(
            "unreadable image",
            where=where,
            found=f"pixels of mode {image.mode!r}, whose brightness has no agreed range",
            allowed="Scale them to 0..255 and give 8 unsigned bits a channel (or 16: 0..65535)",
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


HEAD = 4096  # bytes in which a size is looked for without Pillow
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB\x60\x82"}

# JPEG: marker, kind and length of a segment; in a frame header precision, height and width follow.
FRAME = struct.Struct(">BBHBHH")
FRAMES = (0xC0, 0xC1, 0xC2)
SKIPPED = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)} - {0xE1}  # tables, comments; no EXIF


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


def read_header(file: Path, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Return size and completeness of an image file from its two ends, without decoding it.

    Raises:
        DataError: if there is no such file, it is no image, or it has more than ``max_pixels``.
    """
    try:
        stream = file.open("rb")
    except (OSError, ValueError) as error:
        raise _unreadable(str(file), error) from error
    with stream:
        size = _plain_jpeg_size(stream.peek(HEAD))
        if size is not None and size[0] * size[1] <= max_pixels:
            stream.seek(-2, os.SEEK_END)
            return ImageHeader(size, size, stream.read() == END_MARKERS["JPEG"])
        with _opened(stream, str(file), max_pixels) as image:
            width, height = image.size
            turned = (width, height) if _orientation(image) >= 5 else (height, width)
            marker = END_MARKERS.get(image.format or "", b"")
            stream.seek(0, os.SEEK_END)
            stream.seek(max(stream.tell() - len(marker), 0))
            return ImageHeader((height, width), turned, stream.read() == marker or not marker)


def _plain_jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Return the (height, width) of a JPEG, or None where Pillow has to look.

    Pillow reads all tables of a header, which takes most of the time in which a large data set is
    opened. Here the segments are skipped up to the one with the size. EXIF data and whatever is
    unusual are left to Pillow.
    """
    offset = 2
    while head[:2] == b"\xff\xd8" and len(head) >= offset + 9:
        marker, kind, length, precision, height, width = FRAME.unpack_from(head, offset)
        if marker == 0xFF and kind in FRAMES and precision == 8 and height > 0 < width:
            return height, width
        if marker != 0xFF or kind not in SKIPPED:
            return None
        offset += 2 + length
    return None


Picture = str | Path | Image.Image | np.ndarray | Tensor
"""A file; a PIL image; an array ``(h, w)`` or ``(h, w, channels)``; a tensor ``(h, w)`` or
``(channels, h, w)``. One channel is grey, two are grey and opacity, three RGB, four RGB and
opacity. Values are ``uint8``, ``uint16`` (0..65535, as in a 16-bit file) or floating point in 0..1.
"""


def as_images(pictures: Sequence[Picture]) -> list[UInt8[Tensor, "3 _ _"]]:
    """Return the pixels of each picture, on the CPU.

    Raises:
        DataError: (a ValueError) if a file cannot be read, or a picture in memory has a type,
            shape, mode or range of values that leaves its brightness open; its number is named.
    """
    return [_as_image(picture, f"picture {number}") for number, picture in enumerate(pictures)]


def _as_image(picture: Picture, where: str) -> UInt8[Tensor, "3 h w"]:
    if isinstance(picture, str | Path):
        return read_image(Path(picture))
    if isinstance(picture, Image.Image):
        try:
            pixels = _decode(picture, where)
        except (DataError, MemoryError):
            raise
        except Exception as error:
            raise _unreadable(where, error) from error
    else:
        pixels = _from_memory(picture, where)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _from_memory(picture: object, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of an array or a tensor."""
    name = f"a {type(picture).__name__}"
    values: np.ndarray = np.zeros(0)
    if isinstance(picture, Tensor):
        name = f"a tensor of shape {tuple(picture.shape)} and type {picture.dtype}"
        # NumPy has no bfloat16.
        tensor = picture.detach().double() if picture.is_floating_point() else picture
        values = tensor.cpu().numpy()
        values = values.transpose(1, 2, 0) if values.ndim == 3 else values
    elif isinstance(picture, np.ndarray):
        name = f"an array of shape {picture.shape} and type {picture.dtype}"
        values = picture
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.size == 0 or not 1 <= values.shape[2] <= 4:
        raise DataError.about(
            "unusable picture",
            where=where,
            found=f"it is {name}",
            allowed="Give a path, a PIL image, an array (h, w) or (h, w, channels), or a tensor "
            "(h, w) or (channels, h, w), with 1 to 4 channels; several pictures as a list",
        )
    colours = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
    pixels = _to_bytes(colours, where, name)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def _to_bytes(
    values: Shaped[np.ndarray, "h w c"], where: str, name: str
) -> UInt8[np.ndarray, "h w c"]:
    """Return a copy in 8 bits of values with 8 or 16 unsigned bits, or floating point in 0..1."""
    kind, width = values.dtype.kind, values.dtype.itemsize
    if kind == "u" and width <= 2:
        return np.array(values >> 8 * (width - 1), dtype=np.uint8)
    found = f"it is {name}"
    if kind in "iuf":
        lowest, highest = values.min(), values.max()
        half = 0.5 / 255  # of a grey level: resampled values may pass 0 and 1 by rounding
        if kind == "f" and lowest >= -half and highest <= 1 + half:
            return np.asarray(np.rint(values.astype(np.float64).clip(0, 1) * 255), dtype=np.uint8)
        found += f" with values in {lowest:g}..{highest:g}"
    raise DataError.about(
        "unusable picture",
        where=where,
        found=found,
        allowed="Values are uint8 in 0..255, uint16 in 0..65535 or floating point in 0..1: scale "
        "them, or convert values in 0..255 to uint8",
    )
