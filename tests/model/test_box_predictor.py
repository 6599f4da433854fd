"""The two outputs for each RoI: class logits and box deltas."""

import pytest
import torch
from torch.testing import assert_close

from rcnn.model.box_predictor import BoxPredictor, BoxPredictorSettings


@pytest.mark.parametrize("classes", [1, 20])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_there_is_a_logit_for_background_and_each_class(class_agnostic: bool, classes: int) -> None:
    settings = BoxPredictorSettings(class_agnostic=class_agnostic)
    predictor = BoxPredictor(settings, in_channels=32, num_classes=classes)
    for rois in (5, 1, 0):
        output = predictor(torch.randn(rois, 32))
        assert output.logits.shape == (rois, classes + 1)
        assert output.deltas.shape == (rois, 1 if class_agnostic else classes + 1, 4)


def test_deltas_of_a_class_stand_together() -> None:
    predictor = BoxPredictor(BoxPredictorSettings(), in_channels=3, num_classes=4)
    features = torch.randn(2, 3)
    assert predictor.bbox_pred is not None
    raw = predictor.bbox_pred(features)
    assert torch.equal(predictor(features).deltas[:, 2], raw[:, 8:12])


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_without_box_regression_there_is_no_layer_and_no_deltas(class_agnostic: bool) -> None:
    settings = BoxPredictorSettings(class_agnostic=class_agnostic, box_regression=False)
    predictor = BoxPredictor(settings, in_channels=3, num_classes=4)
    assert {name for name, _ in predictor.named_parameters()} == {
        "cls_score.weight",
        "cls_score.bias",
    }
    output = predictor(torch.randn(2, 3))
    assert output.logits.shape == (2, 5)
    assert output.deltas is None


def test_both_classifiers_have_the_same_layers() -> None:
    """One checkpoint fits both; background's logit is there in both."""
    one, other = (
        BoxPredictor(BoxPredictorSettings(classifier=kind), in_channels=3, num_classes=4)
        for kind in ("softmax", "one_vs_rest")
    )
    one.load_state_dict(other.state_dict())


def test_layers_start_as_in_the_paper() -> None:
    torch.manual_seed(0)
    predictor = BoxPredictor(BoxPredictorSettings(), in_channels=1024, num_classes=20)
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        assert_close(layer.weight.std(), torch.tensor(std), atol=0.05 * std, rtol=0.0)
        assert layer.weight.mean().abs() < 0.05 * std
        assert not layer.bias.any()
