"""Pictures as people hand them over."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.data import DataError, as_images


def test_every_form_of_a_picture_gives_the_same_tensor(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, tensor]
    for image in as_images(forms):
        assert image.dtype == torch.uint8
        assert image.equal(tensor)


def test_a_grey_array_becomes_three_equal_channels() -> None:
    (image,) = as_images([np.arange(6, dtype=np.uint8).reshape(2, 3)])
    assert image.shape == (3, 2, 3)
    assert image[0].equal(image[2])


def test_a_file_is_turned_as_a_viewer_turns_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    (image,) = as_images([tmp_path / "turned.jpg"])
    assert image.shape == (3, 8, 4)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 4), dtype=np.uint8), r"Picture 0 is an array \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), dtype=np.float32), "of float32"),
        (torch.zeros(4, 4), r"Picture 0 is a tensor of shape \(4, 4\)"),
    ],
)
def test_what_is_no_picture_is_told_with_its_place(picture: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_images([picture])  # type: ignore[list-item]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        as_images([tmp_path / "nowhere.jpg"])
