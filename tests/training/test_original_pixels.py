"""Pixels as they were before resizing, on their way to a detector that tests at several scales."""

import pytest
import torch

from rcnn.data import ShapesSource
from rcnn.model.transform import ImageSettings
from rcnn.training import DetectionDataModule, LoaderSettings


@pytest.mark.parametrize("scales", [None, (32, 64)])
def test_original_pixels_travel_along_if_there_are_several_scales(
    scales: tuple[int, ...] | None,
) -> None:
    images = ImageSettings(shorter_side=32, longer_side=64, test_scales=scales)
    source = ShapesSource(train=2, val=1, test=1, size=100)
    data = DetectionDataModule(source, LoaderSettings(workers=0), images=images)
    (training,), (testing,) = list(data.train_dataloader()), list(data.test_dataloader())
    assert training.images.originals is None
    assert testing.images.pixels.shape == (1, 3, 32, 32)
    if scales is None:
        assert testing.images.originals is None
    else:
        assert torch.equal(testing.images.originals[0], data.dataset("test")[0].image)
