"""The two outputs of the box head."""

import pytest
import torch
from torch.testing import assert_close

from rcnn.model.box_predictor import BoxPredictor, BoxPredictorSettings


@pytest.mark.parametrize(("class_agnostic", "sets"), [(False, 21), (True, 1)])
def test_shapes(class_agnostic: bool, sets: int) -> None:
    head = BoxPredictor(
        BoxPredictorSettings(class_agnostic=class_agnostic), in_channels=32, num_classes=20
    )
    for rois in (5, 1, 0):
        output = head(torch.randn(rois, 32))
        assert output.logits.shape == (rois, 21)
        assert output.deltas.shape == (rois, sets, 4)


def test_deltas_of_a_class_stand_together() -> None:
    head = BoxPredictor(BoxPredictorSettings(), in_channels=3, num_classes=4)
    features = torch.randn(2, 3)
    raw = head.bbox_pred(features)
    assert torch.equal(head(features).deltas[:, 2], raw[:, 8:12])


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_without_box_regression_there_is_no_layer_and_no_deltas(class_agnostic: bool) -> None:
    settings = BoxPredictorSettings(class_agnostic=class_agnostic, box_regression=False)
    head = BoxPredictor(settings, in_channels=3, num_classes=4)
    assert {name for name, _ in head.named_parameters()} == {"classes.weight", "classes.bias"}
    output = head(torch.randn(2, 3))
    assert output.logits.shape == (2, 5)
    assert output.deltas is None


def test_both_classifiers_have_the_same_layers() -> None:
    """One checkpoint fits both; background's logit is there in both."""
    shapes = [
        {key: tensor.shape for key, tensor in head.state_dict().items()}
        for head in (
            BoxPredictor(BoxPredictorSettings(), in_channels=3, num_classes=4),
            BoxPredictor(
                BoxPredictorSettings(classifier="one_vs_rest"), in_channels=3, num_classes=4
            ),
        )
    ]
    assert shapes[0] == shapes[1]


def test_layers_start_as_in_the_paper() -> None:
    torch.manual_seed(0)
    head = BoxPredictor(BoxPredictorSettings(), in_channels=1024, num_classes=20)
    for layer, std in ((head.cls_score, 0.01), (head.bbox_pred, 0.001)):
        assert_close(layer.weight.std(), torch.tensor(std), atol=0.05 * std, rtol=0.0)
        assert layer.weight.mean().abs() < 0.05 * std
        assert not layer.bias.any()
