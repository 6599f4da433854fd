"""Image files of every kind become uint8 RGB."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.data.errors import DataError
from rcnn.data.images import ORIENTATION, ImageHeader, read_header, read_image


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def colour(image: torch.Tensor) -> list[int]:
    """The one colour of a picture."""
    assert (image == image[:, :1, :1]).all()
    return image[:, 0, 0].tolist()


def test_jpeg_equals_pillow(write_image: Callable[..., Path], tmp_path: Path) -> None:
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
    tmp_path: Path, mode: str, stored: object, expected: list[int]
) -> None:
    Image.new(mode, (6, 4), stored).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image.shape, image.dtype) == ((3, 4, 6), torch.uint8)
    assert colour(image) == expected


def test_palette_with_transparency_becomes_rgb(tmp_path: Path) -> None:
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert colour(read_image(tmp_path / "a.png")) == [10, 20, 30]


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = colour(read_image(tmp_path / "a.jpg"))
    assert red > 250
    assert max(green, blue) < 5


def test_grey_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 77).save(tmp_path / "a.jpg")
    assert colour(read_image(tmp_path / "a.jpg")) == [77, 77, 77]


def test_brightness_without_agreed_range_is_refused(tmp_path: Path) -> None:
    Image.new("F", (6, 4), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: unreadable image: pixels of mode 'F'"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_lying_picture_is_turned_as_its_annotation_says(
    write_image: Callable[..., Path], tmp_path: Path, orientation: int
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
    write_image: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.png", (4, 6), exif=turned(3))
    stored = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    torch.testing.assert_close(read_image(file, (4, 6)), stored)
    torch.testing.assert_close(read_image(file), stored.flip(1, 2))


def test_size_that_fits_neither_way_is_an_error(
    write_image: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.jpg", (4, 6), exif=turned(6))
    with pytest.raises(DataError, match=r"a\.jpg: wrong image size: annotated as 8 x 5.*4 x 6"):
        read_image(file, (5, 8))


def test_size_the_other_way_round_needs_an_exif_turn(
    write_image: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.jpg", (4, 6))
    with pytest.raises(DataError, match="annotated as 4 x 6, the image file has 6 x 4"):
        read_image(file, (6, 4))


def test_broken_exif_does_not_make_a_picture_unreadable(
    write_image: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.jpg", (4, 6), exif=b"Exif\x00\x00broken")
    assert read_image(file).shape == (3, 4, 6)
    assert read_header(file).size == (4, 6)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_off_file_is_an_error_that_names_it(
    write_image: Callable[..., Path], tmp_path: Path, name: str, share: float
) -> None:
    file = write_image(tmp_path / name)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert not read_header(file).has_end
    with pytest.raises(DataError, match=rf"{name}: unreadable image: .*truncated"):
        read_image(file)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff\xd8\xff"])
def test_file_that_is_no_image_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=r"a\.jpg: unreadable image"):
            read(file)


def test_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=r"a\.jpg: missing image"):
            read(tmp_path / "a.jpg")


def test_header_tells_both_sizes_and_the_end(
    write_image: Callable[..., Path], tmp_path: Path
) -> None:
    header = read_header(write_image(tmp_path / "a.jpg", (4, 6), exif=turned(8)))
    assert header.size == (4, 6)
    assert header.turned_size == (6, 4)
    assert header.has_end


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": "c" * 100}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_plain_jpeg_is_looked_at_without_its_tables(
    tmp_path: Path, mode: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new(mode, (6, 4)).save(tmp_path / "a.jpg", **options)
    monkeypatch.setattr(Image, "open", None)
    assert read_header(tmp_path / "a.jpg") == ImageHeader((4, 6), (4, 6), True)


def test_jpeg_whose_size_stands_far_behind_is_left_to_pillow(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", icc_profile=b"p" * 60_000)
    assert read_header(tmp_path / "a.jpg").size == (4, 6)


def test_headers_of_photographs_are_what_pillow_says(shared_data: Path) -> None:
    for file in sorted(shared_data.glob("*/**/*.jpg"))[::9]:
        with Image.open(file) as image:
            assert read_header(file).size == (image.height, image.width)
