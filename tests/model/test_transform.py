"""From pictures of any size to one batch."""

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from rcnn.model.transform import ImageSettings, ImageTransform

SMALL = ImageSettings(shorter_side=64, longer_side=96)


def _images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes
    ]


def test_batch_remembers_the_sizes() -> None:
    batch = ImageTransform(SMALL).batch(_images((128, 160), (40, 90), (32, 32)))
    assert batch.sizes.tolist() == [[64, 80], [42, 96], [64, 64]]
    assert batch.original_sizes.tolist() == [[128, 160], [40, 90], [32, 32]]
    assert batch.pixels.shape == (3, 3, 64, 96)
    assert batch.pixels.dtype == torch.uint8
    assert_close(batch.scales[0], torch.tensor([0.5, 0.5]))
    assert_close(batch.scales[1], torch.tensor([42 / 40, 96 / 90]))


def test_pixels_of_a_batch_equal_torchvision() -> None:
    images = [image.float() / 255 for image in _images((128, 160), (40, 90))]
    transform = ImageTransform(ImageSettings(shorter_side=64, longer_side=96, antialias=False))
    oracle = GeneralizedRCNNTransform(64, 96, transform.mean.tolist(), transform.std.tolist())
    expected, _ = oracle(images)
    batch = transform.batch(images)
    assert_close(transform.normalise(batch), expected.tensors)
    assert [tuple(size) for size in batch.sizes.tolist()] == expected.image_sizes


def test_bytes_and_floats_enter_the_network_alike() -> None:
    images = _images((128, 160), (50, 40))
    transform = ImageTransform(SMALL)
    of_bytes = transform.normalise(transform.batch(images))
    of_floats = transform.normalise(transform.batch([image.float() / 255 for image in images]))
    assert_close(of_bytes, of_floats, atol=1.01 / 255 / 0.22, rtol=0.0)  # a grey level


def test_the_padding_is_a_multiple() -> None:
    images = _images((64, 70))
    for multiple, expected in [(1, (64, 70)), (16, (64, 80)), (32, (64, 96)), (128, (128, 128))]:
        settings = ImageSettings(shorter_side=64, longer_side=96, multiple=multiple)
        assert ImageTransform(settings).batch(images).pixels.shape[-2:] == expected


def test_channels_of_caffe_weights_are_blue_green_red() -> None:
    mean = (102.9801 / 255, 115.9465 / 255, 122.7717 / 255)
    settings = ImageSettings(
        shorter_side=32, longer_side=32, mean=mean, std=(1.0, 1.0, 1.0), channels="bgr"
    )
    transform = ImageTransform(settings)
    mean_colour = torch.tensor(mean).flip(0)[:, None, None].expand(3, 32, 32)  # RGB
    values = transform.normalise(transform.batch([mean_colour]))
    assert values.abs().max() < 1e-6


def test_the_transform_has_no_state_of_its_own() -> None:
    assert list(ImageTransform(SMALL).state_dict()) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "the list is empty"),
        ([torch.zeros(3, 8, 8), torch.zeros(1, 8, 8)], r"Image 1 has shape \(1, 8, 8\)"),
        ([torch.zeros(8, 8)], r"Image 0 has shape \(8, 8\)"),
        ([torch.zeros(8, 8, 3)], r"Image 0 has shape \(8, 8, 3\)"),
        ([torch.zeros(3, 0, 8)], r"Image 0 has shape \(3, 0, 8\)"),
        (
            [torch.zeros(3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)],
            "Image 1 is torch.uint8, image 0 torch.float32",
        ),
    ],
)
def test_what_is_no_image_is_named(
    images: list[Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A user has no type checker in the way; neither shall this test.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        ImageTransform(SMALL).batch(images)
