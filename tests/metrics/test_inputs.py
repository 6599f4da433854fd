import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rcnn.metrics import COCOAveragePrecision, ProposalRecall, VOCAveragePrecision
from rcnn.metrics.inputs import class_names_of, read_update


def prediction(**changes: Tensor) -> dict[str, Tensor]:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 5.0], [1.0, 1.0, 2.0, 2.0]])
    fields = {"boxes": boxes, "scores": torch.tensor([0.5, 0.25]), "labels": torch.tensor([1, 3])}
    return fields | changes


def target(**changes: Tensor) -> dict[str, Tensor]:
    return {key: value for key, value in prediction().items() if key != "scores"} | changes


NOTHING = {
    "boxes": torch.zeros(0, 4),
    "scores": torch.zeros(0),
    "labels": torch.zeros(0, dtype=torch.int64),
}


def test_images_are_laid_end_to_end() -> None:
    images = [prediction(), NOTHING, prediction(labels=torch.tensor([2, 2]))]
    detections, objects = read_update(images, [NOTHING, target(), NOTHING], 3)
    assert detections.counts.tolist() == [2, 0, 2]
    assert detections.images.tolist() == [0, 0, 2, 2]
    assert detections.labels.tolist() == [1, 3, 2, 2]
    assert objects.images.tolist() == [1, 1]
    assert objects.boxes.tolist() == prediction()["boxes"].tolist()


def test_optional_keys_default_to_counted_objects_with_the_area_of_their_box() -> None:
    _, objects = read_update([NOTHING], [target()], 3)
    assert objects.counted.tolist() == [True, True]
    assert objects.areas.tolist() == [20.0, 1.0]


def test_optional_keys_may_be_given_for_some_images_only() -> None:
    flags = {"ignore": torch.tensor([True, False]), "crowd": torch.tensor([False, True])}
    images = [target(), target(**flags, area=torch.tensor([7, 8])), target()]
    _, objects = read_update([NOTHING] * 3, images, 3)
    assert objects.ignore.tolist() == [False, False, True, False, False, False]
    assert objects.crowd.tolist() == [False, False, False, True, False, False]
    assert objects.counted.tolist() == [True, True, False, False, True, True]
    assert objects.areas.tolist() == [20.0, 1.0, 7.0, 8.0, 20.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_boxes_and_scores_of_any_number_type_become_float32(dtype: torch.dtype) -> None:
    image = prediction(
        boxes=prediction()["boxes"].to(dtype), scores=torch.tensor([1, 0], dtype=dtype)
    )
    detections, _ = read_update([image], [NOTHING], 3)
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32
    assert detections.boxes.tolist() == prediction()["boxes"].tolist()


def test_predictions_that_require_gradients_are_detached() -> None:
    detections, _ = read_update([prediction(scores=torch.rand(2).requires_grad_())], [NOTHING], 3)
    assert not detections.scores.requires_grad


def test_no_images_are_ordinary() -> None:
    detections, objects = read_update([], [], 3)
    assert detections.boxes.shape == objects.boxes.shape == (0, 4)
    assert len(detections.counts) == len(objects.counts) == 0


MISTAKES = {
    "boxes of shape (4,)": ({"boxes": torch.zeros(4)}, r"\[1\]\['boxes'\] has shape \(4,\)"),
    "an empty list of boxes": ({"boxes": torch.tensor([])}, r"torch\.zeros\(0, 4\)"),
    "too few labels": ({"labels": torch.tensor([1])}, r"\[1\]\['labels'\] has shape \(1,\)"),
    "labels as floats": ({"labels": torch.tensor([1.0, 2.0])}, r"\[1\]\['labels'\].*integer"),
    "background": ({"labels": torch.tensor([1, 0])}, r"\[1\]\['labels'\]\[1\] is 0.*1 to 3"),
    "a class too many": ({"labels": torch.tensor([4, 1])}, r"\[1\]\['labels'\]\[0\] is 4"),
    "xywh boxes": ({"boxes": torch.tensor([[0.0, 0, 1, 1], [9, 9, 4, 4]])}, r"\[1\] is \[9\.0"),
    "NaN": ({"boxes": torch.tensor([[0.0, 0, 1, float("nan")]] * 2)}, r"\['boxes'\]\[0\] is"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("side", ["predictions", "targets"])
def test_a_wrong_value_is_named_with_its_key_and_image(side: str, mistake: str) -> None:
    changes, message = MISTAKES[mistake]
    predictions, targets = [prediction()] * 2, [target()] * 2
    if side == "predictions":
        predictions[1] = prediction(**changes)
    else:
        targets[1] = target(**changes)
    with pytest.raises(ValueError, match=rf"{side}.*{message}|{message}") as error:
        read_update(predictions, targets, 3)
    assert str(error.value).startswith(f"{side}[1]")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ignore": torch.tensor([1, 0])}, r"targets\[0\]\['ignore'\].*bool"),
        ({"crowd": torch.tensor([True])}, r"targets\[0\]\['crowd'\] has shape"),
        ({"area": torch.tensor([4.0, -1.0])}, r"targets\[0\]\['area'\]\[1\] is -1"),
    ],
)
def test_a_wrong_optional_key_is_named(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_update([prediction()], [target(**changes)], 3)


def test_scores_that_are_not_numbers_are_named() -> None:
    bad = prediction(scores=torch.tensor([0.5, float("nan")]))
    with pytest.raises(ValueError, match=r"predictions\[1\]\['scores'\]\[1\] is nan"):
        read_update([NOTHING, bad], [NOTHING, NOTHING], 3)


@pytest.mark.parametrize("metric", [VOCAveragePrecision(3), COCOAveragePrecision(3)])
@pytest.mark.parametrize("key", ["boxes", "scores", "labels"])
def test_a_missing_key_is_named(metric: VOCAveragePrecision, key: str) -> None:
    broken = {name: value for name, value in prediction().items() if name != key}
    with pytest.raises(ValueError, match=rf"predictions\[1\] has no '{key}'"):
        metric.update([prediction(), broken], [target(), target()])


def test_proposals_need_no_labels() -> None:
    image = {key: value for key, value in prediction().items() if key != "labels"}
    ProposalRecall().update([image], [{"boxes": torch.zeros(0, 4)}])


def test_a_value_that_is_no_tensor_is_named() -> None:
    with pytest.raises(ValueError, match=r"predictions\[0\]\['scores'\] is a list"):
        read_update([prediction() | {"scores": [0.5, 0.5]}], [target()], 3)


def test_unequal_numbers_of_images_are_named() -> None:
    with pytest.raises(ValueError, match="predictions of 2 images and targets of 1"):
        read_update([prediction()] * 2, [target()], 3)


@given(st.lists(st.integers(0, 3), min_size=1), st.data())
def test_the_first_bad_label_is_found_wherever_it_is(
    counts: list[int], data: st.DataObject
) -> None:
    images = [
        {
            "boxes": torch.zeros(n, 4),
            "scores": torch.zeros(n),
            "labels": torch.ones(n, dtype=torch.int64),
        }
        for n in counts
    ]
    occupied = [position for position, n in enumerate(counts) if n]
    if not occupied:
        return
    position = data.draw(st.sampled_from(occupied))
    place = data.draw(st.integers(0, counts[position] - 1))
    images[position]["labels"][place] = 9
    with pytest.raises(ValueError, match=rf"predictions\[{position}\]\['labels'\]\[{place}\] is 9"):
        read_update(images, [NOTHING] * len(counts), 2)


def test_classes_are_names_or_a_number() -> None:
    assert class_names_of(["cat", "dog"]) == ("cat", "dog")
    assert class_names_of(3) == ("1", "2", "3")


@pytest.mark.parametrize("classes", [[], 0])
def test_at_least_one_class_is_needed(classes: list[str] | int) -> None:
    with pytest.raises(ValueError, match="at least one class"):
        class_names_of(classes)


def test_one_name_in_place_of_a_list_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"give a list, as \['cat'\]"):
        class_names_of("cat")
