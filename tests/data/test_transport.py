"""Minibatches on their way between processes."""

import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from rcnn.data import DetectionBatch, Sample, collate
from rcnn.data.transport import SMALL, light
from rcnn.structures import TensorFields


def sent(value: object) -> object:
    """What arrives in another process."""
    return pickle.loads(bytes(ForkingPickler.dumps(value)))


def tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = vars(value).values() if isinstance(value, TensorFields) else value
    nested = isinstance(value, TensorFields | tuple)
    return [one for part in parts for one in tensors(part)] if nested else []  # type: ignore[attr-defined]


@pytest.fixture
def batch(make_sample: Callable[..., Sample]) -> DetectionBatch:
    boxes = [[1.0, 2, 30, 20], [4, 4, 8, 9], [0, 0, 5, 5]]
    return collate(
        [
            make_sample(
                (200, 300), boxes[:count], proposals=boxes[: count + 1], image_id=str(count)
            )
            for count in (0, 1, 3)
        ]
    )


def test_a_batch_arrives_as_it_was_sent(batch: DetectionBatch) -> None:
    arrived = sent(batch)
    assert isinstance(arrived, DetectionBatch)
    assert arrived.image_ids == batch.image_ids
    assert [len(ground_truth) for ground_truth in arrived.ground_truths] == [0, 1, 3]
    before, after = tensors(batch), tensors(arrived)
    assert len(before) == len(after) == 3 + 3 + 4 + 3 * 5
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_only_the_pixels_travel_in_shared_memory(batch: DetectionBatch) -> None:
    sent(batch)
    shared = [one for one in tensors(batch) if one.is_shared()]
    assert [one.data_ptr() for one in shared] == [batch.images.pixels.data_ptr()]


def test_what_arrives_can_be_written_to(batch: DetectionBatch) -> None:
    for tensor in tensors(sent(batch)):
        tensor.zero_()


@pytest.mark.parametrize("shape", [(), (0, 4), (SMALL,)])
def test_small_tensors_of_any_shape_become_bytes(shape: tuple[int, ...]) -> None:
    tensor = torch.zeros(shape, dtype=torch.uint8)
    assert torch.equal(pickle.loads(pickle.dumps(light(tensor))), tensor)
    assert not isinstance(light(tensor), torch.Tensor)


def test_a_large_tensor_and_what_is_none_stay_as_they_are() -> None:
    tensor = torch.zeros(SMALL + 1, dtype=torch.uint8)
    assert light(tensor) is tensor
    assert light(("a", None)) == ("a", None)
