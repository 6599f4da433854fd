import pytest
import torch
from torch import nn

from rcnn.model.backbones.backbone import Body, FullyConnectedTail


@pytest.mark.parametrize("roi_levels", [0, 3])
def test_body_pools_from_some_of_its_levels(roi_levels: int) -> None:
    with pytest.raises(ValueError, match=f"roi_levels={roi_levels} is not possible"):
        Body(strides=(8, 16), channels=4, roi_levels=roi_levels)


def test_body_may_pool_from_all_levels() -> None:
    assert Body(strides=(8, 16), channels=4, roi_levels=2).roi_levels == 2


def test_fully_connected_tail_is_two_layers_with_relu() -> None:
    tail = FullyConnectedTail(in_channels=1, cells=1, hidden=1, dropout=0.0)
    for layer, weight, bias in ((tail.fc6, 2.0, 1.0), (tail.fc7, -1.0, 5.0)):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
    pooled = torch.tensor([1.0, 10.0, -3.0]).reshape(3, 1, 1, 1)
    # 1 -> 3 -> 2; 10 -> 21 -> -16, cut to 0; -3 -> -5, cut to 0 -> 5
    torch.testing.assert_close(tail(pooled), torch.tensor([[2.0], [0.0], [5.0]]))


def test_dropout_acts_in_training_alone() -> None:
    tail = FullyConnectedTail(in_channels=2, cells=4, hidden=64, dropout=0.5)
    pooled = torch.rand(3, 2, 2, 2)
    nn.init.ones_(tail.fc7.bias)
    trained, evaluated = tail.train()(pooled), tail.eval()(pooled)
    assert (trained == 0).any(dim=1).all()
    assert not (evaluated == 0).all(dim=0).any()
    torch.testing.assert_close(tail(pooled), evaluated)


def test_dropout_follows_both_layers() -> None:
    tail = FullyConnectedTail(in_channels=1, cells=1, hidden=64, dropout=0.5).train()
    for layer in (tail.fc6, tail.fc7):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.ones_(tail.fc6.bias)
    nn.init.eye_(tail.fc7.weight)
    # a unit that survives is doubled, twice
    assert set(tail(torch.ones(3, 1, 1, 1)).flatten().tolist()) == {0.0, 4.0}


@pytest.mark.parametrize("rois", [0, 1, 3])
def test_fully_connected_tail_gives_one_vector_per_roi(rois: int) -> None:
    tail = FullyConnectedTail(in_channels=3, cells=4, hidden=5, dropout=0.5)
    assert tail(torch.rand(rois, 3, 2, 2)).shape == (rois, 5)
    assert tail.channels == 5
