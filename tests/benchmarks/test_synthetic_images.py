"""The images that both detectors see."""

import pytest
import torch

from benchmarks.synthetic_images import SMALLEST, draw


@pytest.mark.parametrize("objects", [0, 1, 3, 300])
def test_an_image_has_the_given_number_of_objects_inside_it(objects: int) -> None:
    (image,) = draw((120, 200), objects, classes=4, count=1)
    assert image.pixels.shape == (3, 120, 200)
    assert 0 <= image.pixels.min() < image.pixels.max() <= 1
    boxes = image.ground_truth.boxes
    assert boxes.shape == (objects, 4)
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([200, 120, 200, 120])).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST - 1e-3).all()
    assert set(image.ground_truth.labels.tolist()) <= {1, 2, 3, 4}


def test_a_seed_gives_the_same_images_which_differ_from_each_other() -> None:
    first, again = (draw((40, 60), 2, classes=3, count=2, seed=5) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.ground_truth.boxes, other.ground_truth.boxes)
    assert not torch.equal(first[0].ground_truth.boxes, first[1].ground_truth.boxes)


def test_images_smaller_than_the_smallest_object_are_possible() -> None:
    (image,) = draw((16, 20), 3, classes=2, count=1)
    sides = image.ground_truth.boxes[:, 2:] - image.ground_truth.boxes[:, :2]
    assert (sides > 0).all()
    assert (sides <= torch.tensor([20.0, 16.0])).all()
