import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.structures import ImageBatch
from rcnn.view.tensors import from_pil, image_of, to_pil, to_uint8


def test_bytes_stay_bytes(image: Tensor) -> None:
    torch.testing.assert_close(to_uint8(image), image, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_zero_becomes_black_and_one_becomes_white(dtype: torch.dtype) -> None:
    image = torch.tensor([0.0, 1.0], dtype=dtype).expand(3, 1, 2)
    assert to_uint8(image).tolist() == [[[0, 255]]] * 3


def test_bytes_survive_the_way_over_floats(image: Tensor) -> None:
    difference = to_uint8(image.float() / 255).int() - image.int()
    assert difference.abs().max() <= 1


def test_a_rounding_error_above_one_is_white_not_black() -> None:
    assert to_uint8(torch.full((3, 2, 2), 1.0005)).min() == 255


@pytest.mark.parametrize("value", [-1.5, 2.0, 255.0, float("nan")])
def test_a_normalised_image_is_refused(value: float) -> None:
    image = torch.full((3, 4, 4), 0.5)
    image[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"0\.\.1.*normalised"):
        to_uint8(image)


def test_an_image_of_integers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.int64.*torch\.uint8"):
        to_uint8(torch.zeros(3, 4, 4, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_an_image_of_a_batch_comes_without_its_padding(dtype: torch.dtype) -> None:
    pixels = torch.zeros(2, 3, 8, 10, dtype=dtype)
    pixels[1, :, :5, :7] = 1
    sizes = torch.tensor([[8, 10], [5, 7]])
    picture = image_of(ImageBatch(pixels, sizes, sizes), 1)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 5, 7)
    assert picture.min() == (1 if dtype == torch.uint8 else 255)


def test_pictures_pass_through_pil_unchanged(image: Tensor) -> None:
    picture = to_pil(image)
    assert picture.size == (400, 330)
    assert np.asarray(picture)[2, 3].tolist() == image[:, 2, 3].tolist()
    torch.testing.assert_close(from_pil(picture), image, rtol=0, atol=0)


@pytest.mark.parametrize("channels_last", [False, True])
def test_drawing_on_the_pil_image_leaves_the_tensor_alone(
    image: Tensor, channels_last: bool
) -> None:
    if channels_last:  # then the bytes already lie as PIL has them
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    before = image.clone()
    to_pil(image).paste((0, 0, 0), (0, 0, 50, 50))
    torch.testing.assert_close(image, before, rtol=0, atol=0)
