import pytest
import torch
from torch import Tensor, nn

from rcnn.model.backbones.backbone import Backbone


@pytest.mark.parametrize("roi_levels", [0, 3])
def test_body_pools_from_some_of_its_levels(roi_levels: int) -> None:
    with pytest.raises(ValueError, match=f"roi_levels={roi_levels} is not possible"):
        Backbone(strides=(8, 16), channels=4, roi_levels=roi_levels)


def test_body_may_pool_from_all_levels() -> None:
    assert Backbone(strides=(8, 16), channels=4, roi_levels=2).roi_levels == 2


class NormedBody(Backbone):
    def __init__(self) -> None:
        super().__init__(strides=(2,), channels=4, roi_levels=1)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.BatchNorm2d(4), nn.Dropout())

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.layers(pixels)]


def test_a_frozen_body_stays_in_evaluation_whatever_the_detector_does() -> None:
    detector = nn.Sequential(NormedBody(), nn.Conv2d(4, 4, 1))
    detector[0].freeze()
    assert not any(module.training for module in detector[0].modules())
    detector.train()
    assert detector.training
    assert detector[1].training
    assert not any(module.training for module in detector[0].modules())
    detector.eval()
    assert not any(module.training for module in detector.modules())


def test_a_frozen_body_neither_learns_nor_counts_nor_drops() -> None:
    backbone = NormedBody()
    backbone.freeze()
    backbone.train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    pixels = torch.rand(2, 3, 8, 8)
    (first,), (second,) = backbone(pixels), backbone(pixels)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_another_body_follows_the_mode() -> None:
    backbone = NormedBody()
    assert all(module.training for module in backbone.train().modules())
    assert not any(module.training for module in backbone.eval().modules())
    assert all(module.training for module in backbone.train().modules())
