"""Pictures from files and from memory become the same uint8 RGB pixels."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.data import DataError, as_images
from rcnn.data.images import ORIENTATION, ImageHeader, read_header, read_image

Write = Callable[..., Path]


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def colour(image: torch.Tensor) -> list[int]:
    """The one colour of a picture."""
    assert (image == image[:, :1, :1]).all()
    return image[:, 0, 0].tolist()


def noise(*shape: int, top: int = 255) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top + 1, shape)


# --- files ------------------------------------------------------------------------------------


def test_jpeg_equals_pillow(write_image: Write, tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.jpg", (7, 9))
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    torch.testing.assert_close(read_image(file), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("mode", "stored", "expected"),
    [
        ("RGB", (10, 20, 30), [10, 20, 30]),
        ("L", 77, [77, 77, 77]),
        ("RGBA", (10, 20, 30, 128), [10, 20, 30]),
        ("LA", (77, 3), [77, 77, 77]),
        ("1", 1, [255, 255, 255]),
        ("I;16", 0x4D12, [0x4D, 0x4D, 0x4D]),
    ],
)
def test_png_of_any_mode_becomes_rgb(
    tmp_path: Path, mode: str, stored: Any, expected: list[int]
) -> None:
    Image.new(mode, (6, 4), stored).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image.shape, image.dtype) == ((3, 4, 6), torch.uint8)
    assert colour(image) == expected


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = colour(read_image(tmp_path / "a.jpg"))
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_lying_picture_is_turned_as_its_annotation_says(
    write_image: Write, tmp_path: Path, orientation: int
) -> None:
    file = write_image(tmp_path / "a.png", (4, 6), exif=turned(orientation))
    stored = np.array(Image.open(file))
    by_hand = {
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }
    assert read_image(file, (4, 6)).permute(1, 2, 0).numpy().tolist() == stored.tolist()
    for upright in (read_image(file, (6, 4)), read_image(file)):
        assert upright.permute(1, 2, 0).numpy().tolist() == by_hand[orientation].tolist()


def test_upside_down_picture_is_left_as_its_annotation_size_cannot_tell(
    write_image: Write, tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.png", (4, 6), exif=turned(3))
    stored = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    torch.testing.assert_close(read_image(file, (4, 6)), stored)
    torch.testing.assert_close(read_image(file), stored.flip(1, 2))


@pytest.mark.parametrize(("exif", "size"), [(6, (5, 8)), (1, (6, 4))])
def test_size_that_fits_neither_way_is_an_error(
    write_image: Write, tmp_path: Path, exif: int, size: tuple[int, int]
) -> None:
    file = write_image(tmp_path / "a.jpg", (4, 6), exif=turned(exif))
    with pytest.raises(DataError, match=rf"a\.jpg: wrong image size: .* {size[1]} x {size[0]},"):
        read_image(file, size)


def test_broken_exif_does_not_make_a_picture_unreadable(write_image: Write, tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.jpg", (4, 6), exif=b"Exif\x00\x00broken")
    assert read_image(file).shape == (3, 4, 6)
    assert read_header(file).size == (4, 6)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_off_file_is_an_error_that_names_it(
    write_image: Write, tmp_path: Path, name: str, share: float
) -> None:
    file = write_image(tmp_path / name)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert not read_header(file).has_end
    with pytest.raises(DataError, match=f"{name}: unreadable image"):
        read_image(file)


@pytest.mark.parametrize("error", [RecursionError, OverflowError, LookupError, zlib.error])
def test_whatever_a_parser_of_pillow_lets_through_is_an_error_that_names_the_file(
    write_image: Write, tmp_path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("details")

    file = write_image(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(DataError, match=rf"a\.png: unreadable image: .*{error.__name__}: details"):
        read_image(file)


@pytest.mark.parametrize("content", [None, b"", b"<html>not found</html>", b"\xff\xd8\xff"])
def test_file_that_is_no_image_is_an_error_that_names_it(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "a.jpg"
    if content is not None:
        file.write_bytes(content)
    reason = "missing" if content is None else "unreadable"
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=rf"a\.jpg: {reason} image"):
            read(file)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_largest_number_of_pixels_is_a_choice_and_not_that_of_pillow(
    write_image: Write, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_image(tmp_path / name, (4, 6))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)  # an error from twice as many on
    assert read_image(file).shape == (3, 4, 6)
    assert read_header(file, 24).size == (4, 6)
    assert Image.MAX_IMAGE_PIXELS == 3
    for read in (lambda: read_header(file, 23), lambda: read_image(file, max_pixels=23)):
        with pytest.raises(DataError, match=rf"{name}: too large .*6 x 4.*data\.max_pixels=23"):
            read()


def test_header_states_both_sizes_and_the_end(write_image: Write, tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.jpg", (4, 6), exif=turned(8))
    assert read_header(file) == ImageHeader((4, 6), (6, 4), True)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": "c" * 100}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_size_of_a_plain_jpeg_is_read_without_pillow(
    tmp_path: Path, mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new(mode, (6, 4)).save(tmp_path / "a.jpg", **options)
    monkeypatch.setattr(Image, "open", None)
    assert read_header(tmp_path / "a.jpg") == ImageHeader((4, 6), (4, 6), True)


def test_size_far_behind_in_a_jpeg_is_found(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", icc_profile=b"p" * 60_000)
    assert read_header(tmp_path / "a.jpg").size == (4, 6)


def test_headers_of_photographs_agree_with_pillow(shared_data: Path) -> None:
    for file in sorted(shared_data.glob("*/**/*.jpg"))[::9]:
        with Image.open(file) as image:
            assert read_header(file).size == (image.height, image.width)


# --- every door -------------------------------------------------------------------------------


def through_every_door(file: Path, picture: Any) -> None:
    """Check that a picture in memory equals its file, however it is handed over."""
    expected = read_image(file)
    channels_first = np.moveaxis(picture, -1, 0) if picture.ndim == 3 else picture
    with Image.open(file) as opened:
        doors = [str(file), opened, picture, torch.from_numpy(channels_first.copy())]
        for image in as_images(doors):
            assert image.dtype == torch.uint8
            assert image.tolist() == expected.tolist()


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4)])
def test_bytes_equal_their_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = noise(*shape).astype(np.uint8)
    Image.fromarray(picture[..., 0] if shape[-1] == 1 else picture).save(tmp_path / "a.png")
    through_every_door(tmp_path / "a.png", picture)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_fractions_equal_the_file_of_their_bytes(
    tmp_path: Path, dtype: type, shape: tuple[int, ...]
) -> None:
    picture = noise(*shape).astype(np.uint8)
    Image.fromarray(picture[..., 0] if shape[-1] == 1 else picture).save(tmp_path / "a.png")
    through_every_door(tmp_path / "a.png", (picture / dtype(255)).astype(dtype))


def test_brain_floats_are_rounded_to_bytes() -> None:
    tensor = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1)
    (image,) = as_images([tensor.bfloat16().requires_grad_()])
    assert image.flatten().tolist() == [0, 128, 255]


def write_png_of_16_bits(file: Path, picture: np.ndarray) -> None:
    """Pillow writes 16 bits of grey only."""
    height, width, channels = picture.shape
    rows = picture.astype(">u2").tobytes()
    stride = 2 * width * channels
    filtered = b"".join(b"\0" + rows[k : k + stride] for k in range(0, len(rows), stride))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(filtered)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    file.write_bytes(content)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("top", [65535, 200])  # a dark picture is not taken for one of 8 bits
def test_sixteen_bits_equal_their_file(tmp_path: Path, channels: int, top: int) -> None:
    picture = noise(5, 7, channels, top=top).astype(np.uint16)
    write_png_of_16_bits(tmp_path / "a.png", picture)
    through_every_door(tmp_path / "a.png", picture)
    (swapped,) = as_images([picture.astype(">u2")])
    assert swapped.tolist() == read_image(tmp_path / "a.png").tolist()


MODES = {
    "1": (noise(5, 7) > 128),
    "L": noise(5, 7).astype(np.uint8),
    "LA": noise(5, 7, 2).astype(np.uint8),
    "P": noise(5, 7, 3).astype(np.uint8),
    "RGB": noise(5, 7, 3).astype(np.uint8),
    "RGBA": noise(5, 7, 4).astype(np.uint8),
    "CMYK": noise(5, 7, 4).astype(np.uint8),
    "I;16": noise(5, 7, top=65535).astype(np.uint16),
}


@pytest.mark.parametrize("mode", MODES)
def test_pil_image_of_any_mode_equals_its_file(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(MODES[mode], "CMYK" if mode == "CMYK" else None)
    picture = picture.convert("P") if mode == "P" else picture
    assert picture.mode == mode
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(file)
    made, opened = as_images([picture, Image.open(file)])
    assert made.tolist() == opened.tolist() == read_image(file).tolist()


def test_palette_with_transparency_becomes_rgb_by_every_door(tmp_path: Path) -> None:
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.info["transparency"] = b"\x00\x80"
    palette.save(tmp_path / "a.png")
    for image in as_images([tmp_path / "a.png", palette, Image.open(tmp_path / "a.png")]):
        assert colour(image) == [10, 20, 30]


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pil_image_is_turned_as_its_file(
    write_image: Write, tmp_path: Path, suffix: str, orientation: int
) -> None:
    file = write_image(tmp_path / f"a.{suffix}", (4, 6), exif=turned(orientation))
    by_path, opened, copied = as_images([file, Image.open(file), Image.open(file).copy()])
    assert by_path.shape == ((3, 6, 4) if orientation >= 5 else (3, 4, 6))
    assert by_path.tolist() == opened.tolist() == copied.tolist()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_brightness_without_agreed_range_is_refused_by_every_door(
    tmp_path: Path, mode: str
) -> None:
    picture = Image.new(mode, (6, 4), 1)
    picture.save(tmp_path / "a.tif")
    for given in (tmp_path / "a.tif", picture, Image.open(tmp_path / "a.tif")):
        with pytest.raises(DataError, match=f"unreadable image: .*{mode!r}.*8 unsigned bits"):
            as_images([given])


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (noise(4, 5, 3), r"int64 with values in 0\.\.255"),
        (noise(4, 5, 3).astype(np.int32), r"int32 with values in 0\.\.255"),
        (noise(4, 5, 3).astype(np.int16), r"int16 with values in 0\.\.255"),
        (noise(4, 5, 3).astype(np.uint32), r"uint32"),
        (noise(4, 5, 3) > 9, r"bool"),
        (noise(4, 5, 3).astype(np.float32), r"float32 with values in 0\.\.255"),
        (noise(4, 5, 3).astype(np.float64), r"float64 with values in 0\.\.255"),
        (np.full((4, 5), -0.5, dtype=np.float32), r"float32 with values in -0\.5\.\.-0\.5"),
        (np.full((4, 5), np.nan, dtype=np.float32), r"float32 with values in nan\.\.nan"),
    ],
)
def test_values_of_open_brightness_are_refused_with_what_was_found_and_the_remedy(
    values: np.ndarray, found: str
) -> None:
    tensor = torch.from_numpy(np.moveaxis(values, -1, 0).copy() if values.ndim == 3 else values)
    good = np.zeros((4, 5), dtype=np.uint8)
    for picture in (values, tensor):
        with pytest.raises(ValueError, match=f"picture 1: .*{found}.*convert values in 0..255"):
            as_images([good, picture])


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (np.zeros((3, 8, 9), dtype=np.uint8), r"array of shape \(3, 8, 9\)"),
        (np.zeros((2, 8, 9, 3), dtype=np.uint8), r"array of shape \(2, 8, 9, 3\)"),
        (np.zeros((8, 0, 3), dtype=np.uint8), r"array of shape \(8, 0, 3\)"),
        (torch.zeros(8, 9, 3), r"tensor of shape \(8, 9, 3\)"),
        (torch.zeros(1, 3, 8, 9), r"tensor of shape \(1, 3, 8, 9\)"),
        (torch.zeros(3), r"tensor of shape \(3,\)"),
    ],
)
def test_what_is_no_picture_is_named_with_its_number_and_shape(picture: Any, found: str) -> None:
    with pytest.raises(ValueError, match=f"picture 0: .*{found}.*list"):
        as_images([picture])


def test_something_else_is_refused_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no type checks
    with pytest.raises(ValueError, match=r"picture 0: .*it is a bytes"):
        as_images([b"no picture"])  # type: ignore[list-item]


def test_values_that_resampling_took_over_the_limits_by_rounding_are_clipped() -> None:
    (image,) = as_images([np.array([[-1e-4, 1 + 1e-4]], dtype=np.float32)])
    assert image[0].tolist() == [[0, 255]]


def test_picture_is_a_copy_of_views_and_read_only_arrays() -> None:
    picture = noise(5, 7, 3).astype(np.uint8)
    mirrored = picture[:, ::-1, ::-1]
    mirrored.flags.writeable = False
    (image,) = as_images([mirrored])
    expected = torch.from_numpy(picture.copy()).permute(2, 0, 1).flip(0, 2)
    assert image.equal(expected)
    image.zero_()
    assert picture.any()


def test_missing_file_and_cut_off_pil_image_are_named(write_image: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg: missing image"):
        as_images([tmp_path / "nowhere.jpg"])
    file = write_image(tmp_path / "a.png")
    file.write_bytes(file.read_bytes()[:200])
    with Image.open(file) as opened, pytest.raises(DataError, match="picture 0: unreadable"):
        as_images([opened])
