"""Size, padding and normalisation of images."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from rcnn.ops.images import normalise, pad, resize, resized_size

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
length = st.integers(10, 800)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), (600, 800)),  # a photograph of VOC
        ((500, 375), (800, 600)),
        ((480, 640), (600, 800)),
        ((300, 900), (333, 1000)),  # the longer side decides
        ((600, 1000), (600, 1000)),
        ((2000, 1000), (1000, 500)),
        ((1, 1), (600, 600)),
        ((1, 5000), (1, 1000)),  # never without a pixel
    ],
)
def test_shorter_side_to_600_and_longer_to_at_most_1000(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized_size(size, 600, 1000) == expected


@given(length, length, st.integers(40, 300), st.integers(0, 300))
@example(427, 640, 600, 400)  # 427 x (600 / 427) is not 600 in floating point
@example(237, 237, 1, 0)
@settings(deadline=None, max_examples=100)
def test_size_equals_torchvision(height: int, width: int, shorter: int, more: int) -> None:
    size = resized_size((height, width), shorter, shorter + more)
    oracle = GeneralizedRCNNTransform(shorter, shorter + more, MEAN, STD)
    try:
        resized, _ = oracle.resize(torch.zeros(1, 1, 1).expand(3, height, width))
    except RuntimeError:  # it may ask for an image without pixels, we never do
        assert min(size) == 1
    else:
        assert size == tuple(resized.shape[-2:])
    assert max(size) <= shorter + more


@pytest.mark.parametrize("antialias", [True, False])
def test_bytes_and_floats_resize_alike(antialias: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8, generator=generator)
    for size in [(25, 35), (80, 100)]:
        small = resize(image, size, antialias)
        assert small.dtype == torch.uint8
        assert small.shape == (3, *size)
        exact = resize(image.float() / 255, size, antialias) * 255
        # Half a grey level from rounding, as much again from the integer kernel's own weights.
        assert_close(small.float(), exact, atol=1.01, rtol=0.0)
        assert (small.float() - exact).mean().abs() < 0.2  # rounded, not cut off


def test_shrinking_with_antialias_averages_and_without_picks() -> None:
    stripes = torch.zeros(3, 32, 32)
    stripes[:, :, ::4] = 1.0  # one column in four
    averaged = resize(stripes, (8, 8), antialias=True)
    assert_close(averaged[:, :, 2:6].mean(), torch.tensor(0.25), atol=0.05, rtol=0.0)
    picked = resize(stripes, (8, 8), antialias=False)
    assert picked.abs().max() == 0  # only columns 1 and 2 of each four are read


def test_an_image_of_the_right_size_is_returned_as_it_is() -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert resize(image, (5, 7)) is image


def test_padding_lies_at_the_right_and_bottom() -> None:
    images = [
        torch.full((3, 5, 9), 7, dtype=torch.uint8),
        torch.full((3, 8, 4), 9, dtype=torch.uint8),
    ]
    pixels, sizes = pad(images, 8)
    assert pixels.shape == (2, 3, 8, 16)
    assert pixels.dtype == torch.uint8
    assert sizes.tolist() == [[5, 9], [8, 4]]
    assert (pixels[0, :, :5, :9] == 7).all()
    assert (pixels[1, :, :8, :4] == 9).all()
    assert pixels.long().sum() == 3 * (7 * 45 + 9 * 32)
    values = normalise(pixels, sizes, -torch.ones(3), torch.ones(3))  # black is not zero
    assert (values != 0).sum(dim=(1, 2, 3)).tolist() == [3 * 45, 3 * 32]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_padding_is_zero_after_normalisation(dtype: torch.dtype) -> None:
    image = torch.ones(3, 4, 6).to(dtype)
    pixels, sizes = pad([image], 8)
    values = normalise(pixels, sizes, torch.tensor(MEAN), torch.tensor(STD))
    assert values[:, :, 4:].abs().max() == 0
    assert values[:, :, :, 6:].abs().max() == 0
    assert (values[:, :, :4, :6] != 0).all()


def test_normalisation_by_hand_and_the_same_for_bytes_and_floats() -> None:
    pixels = torch.tensor([51, 102, 204], dtype=torch.uint8).view(1, 3, 1, 1)  # 0.2, 0.4, 0.8
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.1, 0.2, 0.25])
    size = torch.tensor([[1, 1]])
    expected = torch.tensor([1.0, 1.0, 2.0]).view(1, 3, 1, 1)
    assert_close(normalise(pixels, size, mean, std), expected)
    assert_close(normalise(pixels.float() / 255, size, mean, std), expected)


def test_the_mean_goes_with_the_order_of_the_channels() -> None:
    """A peer takes RGB means off BGR pixels: a picture of the mean colour must become zero."""
    caffe_mean_bgr = torch.tensor([102.9801, 115.9465, 122.7717]) / 255
    mean_colour_rgb = caffe_mean_bgr.flip(0).view(1, 3, 1, 1)
    size, ones = torch.tensor([[1, 1]]), torch.ones(3)
    values = normalise(mean_colour_rgb, size, caffe_mean_bgr, ones, bgr=True)
    assert_close(values, torch.zeros(1, 3, 1, 1))
    # Pure red comes out in the last channel.
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    values = normalise(red, size, torch.zeros(3), ones, bgr=True)
    assert values.flatten().tolist() == [0.0, 0.0, 1.0]
    assert normalise(red, size, torch.zeros(3), ones).flatten().tolist() == [1.0, 0.0, 0.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("antialias", [True, False])
def test_bytes_are_resized_on_a_gpu_as_on_a_cpu(antialias: bool) -> None:
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    small = resize(image.cuda(), (25, 35), antialias)
    assert small.dtype == torch.uint8
    expected = resize(image, (25, 35), antialias).float()
    assert_close(small.cpu().float(), expected, atol=1.01, rtol=0.0)
