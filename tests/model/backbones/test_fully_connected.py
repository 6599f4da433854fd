import pytest
import torch
from torch import nn

from rcnn.model.backbones import TwoMLPHead
from rcnn.settings import SettingsError


def test_fully_connected_tail_is_two_layers_with_relu() -> None:
    box_head = TwoMLPHead(in_channels=1, cells=1, hidden=1, dropout=0.0)
    for layer, weight, bias in ((box_head.fc6, 2.0, 1.0), (box_head.fc7, -1.0, 5.0)):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
    pooled = torch.tensor([1.0, 10.0, -3.0]).reshape(3, 1, 1, 1)
    # 1 -> 3 -> 2; 10 -> 21 -> -16, cut to 0; -3 -> -5, cut to 0 -> 5
    torch.testing.assert_close(box_head(pooled), torch.tensor([[2.0], [0.0], [5.0]]))


def test_dropout_acts_in_training_alone() -> None:
    box_head = TwoMLPHead(in_channels=2, cells=4, hidden=64, dropout=0.5)
    pooled = torch.rand(3, 2, 2, 2)
    nn.init.ones_(box_head.fc7.bias)
    trained, evaluated = box_head.train()(pooled), box_head.eval()(pooled)
    assert (trained == 0).any(dim=1).all()
    assert not (evaluated == 0).all(dim=0).any()
    torch.testing.assert_close(box_head(pooled), evaluated)


def test_dropout_follows_both_layers() -> None:
    box_head = TwoMLPHead(in_channels=1, cells=1, hidden=64, dropout=0.5).train()
    for layer in (box_head.fc6, box_head.fc7):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.ones_(box_head.fc6.bias)
    nn.init.eye_(box_head.fc7.weight)
    # a unit that survives is doubled, twice
    assert set(box_head(torch.ones(3, 1, 1, 1)).flatten().tolist()) == {0.0, 4.0}


@pytest.mark.parametrize("rois", [0, 1, 3])
def test_fully_connected_tail_gives_one_vector_per_roi(rois: int) -> None:
    box_head = TwoMLPHead(in_channels=3, cells=4, hidden=5, dropout=0.5)
    assert box_head(torch.rand(rois, 3, 2, 2)).shape == (rois, 5)
    assert box_head.channels == 5


def factorised(ranks: tuple[int, int]) -> TwoMLPHead:
    return TwoMLPHead(in_channels=3, cells=4, hidden=8, dropout=0.0, ranks=ranks)


def test_a_layer_with_a_rank_is_two_layers_of_which_the_second_has_the_bias() -> None:
    box_head = factorised((5, 0))
    shapes = {name: tuple(tensor.shape) for name, tensor in box_head.state_dict().items()}
    assert shapes == {
        "fc6.first.weight": (5, 12),
        "fc6.second.weight": (8, 5),
        "fc6.second.bias": (8,),
        "fc7.weight": (8, 8),
        "fc7.bias": (8,),
    }


def test_a_factorised_layer_computes_the_product_of_its_two() -> None:
    box_head, whole = factorised((5, 2)), factorised((0, 0))
    for name in ("fc6", "fc7"):
        thin, layer = getattr(box_head, name), getattr(whole, name)
        layer.weight.data = thin.second.weight.data @ thin.first.weight.data
        layer.bias.data = thin.second.bias.data
    pooled = torch.rand(3, 3, 2, 2)
    torch.testing.assert_close(box_head(pooled), whole(pooled))


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ((9, 2), r"ranks=\(9, 2\) .*fc6 \(12 to 8\) has rank 8 at most"),
        ((2, 9), r"ranks=\(2, 9\) .*fc7 \(8 to 8\) has rank 8 at most"),
        ((-1, 2), r"ranks=\(-1, 2\) .*fc6"),
    ],
)
def test_a_rank_that_no_such_matrix_has_is_an_error_that_names_the_layer(
    ranks: tuple[int, int], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        factorised(ranks)
