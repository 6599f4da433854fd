import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from rcnn.metrics import COCOAveragePrecision, ProposalRecall, VOCAveragePrecision
from rcnn.metrics.inputs import DetectionMetric, gather, read_update, transport_device

Images = list[dict[str, Tensor]]


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
def test_numbers_of_any_type_become_float32_without_gradients(dtype: torch.dtype) -> None:
    boxes, scores = prediction()["boxes"].to(dtype), torch.tensor([1, 0], dtype=dtype)
    scores.requires_grad_(dtype.is_floating_point)
    detections, _ = read_update([prediction(boxes=boxes, scores=scores)], [NOTHING], 3)
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32
    assert detections.boxes.tolist() == prediction()["boxes"].tolist()
    assert not detections.scores.requires_grad


def test_no_images_are_ordinary() -> None:
    detections, objects = read_update([], [], 3)
    assert detections.boxes.shape == objects.boxes.shape == (0, 4)
    assert len(detections.counts) == len(objects.counts) == 0


def test_detections_are_ranked_in_each_image_and_class_the_first_of_equal_scores_first() -> None:
    one = prediction(labels=torch.tensor([2, 1]), scores=torch.tensor([0.1, 0.9]))
    other = {key: value.repeat(2, *[1] * (value.ndim - 1)) for key, value in one.items()}
    detections, _ = read_update([one, other], [NOTHING] * 2, 3)
    ranked, order = detections.ranked()
    assert order.tolist() == [1, 0, 3, 5, 2, 4]
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(getattr(ranked, name), getattr(detections, name)[order])
    assert ranked.counts.tolist() == [2, 4]


MISTAKES = {
    "boxes of shape (4,)": ({"boxes": torch.zeros(4)}, r"\[1\]\['boxes'\] has shape \(4,\)"),
    "an empty list of boxes": ({"boxes": torch.tensor([])}, r"torch\.zeros\(0, 4\)"),
    "too few labels": ({"labels": torch.tensor([1])}, r"\[1\]\['labels'\] has shape \(1,\)"),
    "labels as floats": ({"labels": torch.tensor([1.0, 2.0])}, r"\[1\]\['labels'\].*integer"),
    "background": ({"labels": torch.tensor([1, 0])}, r"\[1\]\['labels'\]\[1\] is 0.*1 to 3"),
    "a class too many": ({"labels": torch.tensor([4, 1])}, r"\[1\]\['labels'\]\[0\] is 4"),
    "xywh boxes": ({"boxes": torch.tensor([[0.0, 0, 1, 1], [9, 9, 4, 4]])}, r"\[1\] is \[9\.0"),
    "infinity": ({"boxes": torch.tensor([[0.0, 0, float("inf"), 1]] * 2)}, r"\['boxes'\]\[0\] is"),
    "NaN": ({"boxes": torch.tensor([[0.0, 0, 1, float("nan")]] * 2)}, r"\['boxes'\]\[0\] is"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("side", ["predictions", "targets"])
def test_a_wrong_value_is_named_with_its_key_and_image(side: str, mistake: str) -> None:
    changes, message = MISTAKES[mistake]
    images = {"predictions": [prediction()] * 2, "targets": [target()] * 2}
    images[side][1] = images[side][1] | changes
    with pytest.raises(ValueError, match=rf"^{side}(?=\[1\]).*{message}"):
        read_update(images["predictions"], images["targets"], 3)


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


def test_a_crowd_alone_may_have_no_class() -> None:
    region = {"labels": torch.tensor([0, 3]), "crowd": torch.tensor([True, False])}
    _, objects = read_update([NOTHING], [target(**region)], 3)
    assert objects.labels.tolist() == [0, 3]
    assert objects.counted.tolist() == [False, True]
    with pytest.raises(ValueError, match=r"targets\[0\]\['labels'\]\[0\] is 0"):
        read_update([NOTHING], [target(**region | {"crowd": torch.tensor([False, True])})], 3)


@pytest.mark.parametrize(
    ("scores", "message"), [(torch.tensor([0.5, float("nan")]), r"\[1\] is nan"), ([0.5], "a list")]
)
def test_scores_that_are_no_numbers_are_named(scores: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"predictions\[1\]\['scores'\].*{message}"):
        read_update([NOTHING, prediction() | {"scores": scores}], [NOTHING, NOTHING], 3)


@pytest.mark.parametrize("metric", [VOCAveragePrecision(3), COCOAveragePrecision(3)])
@pytest.mark.parametrize("key", ["boxes", "scores", "labels"])
def test_a_missing_key_is_named(metric: VOCAveragePrecision, key: str) -> None:
    broken = {name: value for name, value in prediction().items() if name != key}
    with pytest.raises(ValueError, match=rf"predictions\[1\] has no '{key}'"):
        metric.update([prediction(), broken], [target(), target()])


def test_unequal_numbers_of_images_are_named() -> None:
    with pytest.raises(ValueError, match="predictions of 2 images and targets of 1"):
        read_update([prediction()] * 2, [target()], 3)


def test_classes_are_names_or_a_number() -> None:
    assert VOCAveragePrecision(["cat", "dog"]).class_names == ("cat", "dog")
    assert COCOAveragePrecision(3).class_names == ("1", "2", "3")


@pytest.mark.parametrize(
    ("classes", "message"), [([], "one class"), (0, "one class"), ("cat", r"\['cat'\]")]
)
def test_classes_are_at_least_one_and_no_string(classes: Sequence[str] | int, message: str) -> None:
    with pytest.raises(ValueError, match=f"class_names.*{message}"):
        VOCAveragePrecision(classes)


# --- state, on one and on several processes -------------------------------------------------


def metric_of(name: str, num_classes: int = 4) -> DetectionMetric:
    match name:
        case "voc":
            return VOCAveragePrecision(num_classes, iou_threshold=[0.5, 0.7])
        case "coco":
            return COCOAveragePrecision(num_classes)
        case _:
            return ProposalRecall(limits=(1, 3, 10))


every_metric = pytest.mark.parametrize("name", ["voc", "coco", "recall"])
FAR_APART = torch.tensor([[100.0 * i, 0.0, 100.0 * i + 10, 10.0] for i in range(3)])


def equal_images(num_detections: int, num_objects: int) -> tuple[Images, Images]:
    """One image of one class with so many detections, as far as possible exactly its objects."""
    one, no = torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
    found = {"boxes": FAR_APART, "scores": torch.tensor([0.9, 0.8, 0.7]), "labels": one}
    target = {"boxes": FAR_APART, "labels": one, "ignore": no, "crowd": no, "area": one * 100}
    return (
        [{key: value[:num_detections] for key, value in found.items()}],
        [{key: value[:num_objects] for key, value in target.items()}],
    )


@pytest.mark.parametrize("num_objects", [0, 1, 3])
@pytest.mark.parametrize("num_detections", [0, 1, 3])
@every_metric
def test_a_data_set_with_one_class(name: str, num_detections: int, num_objects: int) -> None:
    metric = metric_of(name, num_classes=1)
    images = equal_images(num_detections, num_objects)
    metric.update(*images)
    values = metric.compute()
    assert {value.shape for key, value in values.items() if "per_class" in key} <= {(1,)}
    assert {value.shape for key, value in values.items() if "per_class" not in key} == {()}
    # All objects are found by the best detections; recall 1/3 reaches 34 of COCO's 101 levels.
    recall = min(num_detections, num_objects) / num_objects if num_objects else float("nan")
    name_of_mean = {"voc": "voc_map", "coco": "map", "recall": "recall_10"}[name]
    expected = 34 / 101 if name == "coco" and 0 < recall < 1 else recall
    assert float(values[name_of_mean]) == pytest.approx(expected, nan_ok=True)
    again = copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))
    for one in (metric, *again):
        torch.testing.assert_close(one.compute(), values, equal_nan=True)
    torch.testing.assert_close(metric_of(name, 1)(*images), values, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [1, 4])
def test_two_processes_agree_with_one_even_if_one_saw_nothing(
    num_classes: int, tmp_path: Path, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    images = random_images(3, num_images=12, num_classes=num_classes, distinct_scores=True)
    evaluations = [
        (num_classes, *images, shares)
        for shares in ([(0, 8), (8, 12)], [(0, 0), (0, 12)], [(0, 12), (0, 0)])
    ]
    if num_classes == 1:
        evaluations += [
            (1, *equal_images(found, objects), [(0, 1), (0, 0)])
            for found in (0, 1, 3)
            for objects in (0, 1, 3)
        ]
    torch.save(evaluations, tmp_path / "images.pt")
    worker = Path(__file__).parent / "one_rank.py"
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), str(world_size), str(tmp_path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for world_size, rank in ((1, 0), (2, 0), (2, 1))
    ]
    try:
        output = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(output)
    expected, *results = (torch.load(tmp_path / f"{name}.pt") for name in ("1_0", "2_0", "2_1"))
    assert len(expected) == len(evaluations)
    for result in results:
        torch.testing.assert_close(result, expected, equal_nan=True)


@every_metric
def test_a_process_without_images_sends_what_the_others_expect(
    name: str, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    sent: list[list[tuple[torch.dtype, torch.Size]]] = []
    for images in (random_images(2), ([], [])):
        metric = metric_of(name)
        messages: list[Tensor] = []

        def record(tensor: Tensor, group: None, messages: list[Tensor] = messages) -> list[Tensor]:
            messages.append(tensor)
            return [tensor]

        if images[0]:
            metric.update(*images)
        metric.sync(dist_sync_fn=record, distributed_available=lambda: True)
        sent.append([(message.dtype, message.shape[1:]) for message in messages])
    assert sent[0] == sent[1]
    assert sent[0]


@every_metric
def test_computing_in_the_middle_changes_nothing(
    name: str, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    predictions, targets = random_images(4)
    at_once, interrupted = metric_of(name), metric_of(name)
    interrupted.update(predictions[:7], targets[:7])
    interrupted.compute()
    interrupted.update(predictions[7:], targets[7:])
    at_once.update(predictions, targets)
    torch.testing.assert_close(interrupted.compute(), at_once.compute(), equal_nan=True)


@every_metric
def test_updates_without_images_give_nan_alone_and_change_nothing_else(
    name: str, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    images = random_images(8)
    plain, padded = metric_of(name), metric_of(name)
    plain.update(*images)
    padded.update([], [])
    assert all(value.isnan().all() for value in padded.compute().values())
    padded.update(*images)
    padded.update([], [])
    torch.testing.assert_close(padded.compute(), plain.compute(), equal_nan=True)


@every_metric
def test_reset_forgets_everything(
    name: str, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    predictions, targets = random_images(5)
    used, fresh = metric_of(name), metric_of(name)
    used.update(predictions, targets)
    used.compute()
    used.reset()
    for metric in (used, fresh):
        metric.update(predictions[:5], targets[:5])
    torch.testing.assert_close(used.compute(), fresh.compute(), equal_nan=True)


@every_metric
def test_forward_scores_the_batch_and_keeps_it(
    name: str, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    predictions, targets = random_images(6)
    whole, second_part, in_parts = (metric_of(name) for _ in range(3))
    in_parts(predictions[:9], targets[:9])
    of_batch = in_parts(predictions[9:], targets[9:])
    second_part.update(predictions[9:], targets[9:])
    torch.testing.assert_close(of_batch, second_part.compute(), equal_nan=True)
    whole.update(predictions, targets)
    torch.testing.assert_close(in_parts.compute(), whole.compute(), equal_nan=True)


def test_tensors_travel_on_the_device_that_the_processes_talk_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    for backend, device in (("nccl", "cuda:3"), ("gloo", "cpu"), ("cpu:gloo,cuda:nccl", "cpu")):
        monkeypatch.setattr(dist, "get_backend", lambda _, backend=backend: backend)
        assert transport_device(None) == torch.device(device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NCCL needs a CUDA device")
def test_nccl_carries_a_table_that_lies_on_the_cpu(tmp_path: Path) -> None:
    dist.init_process_group(
        "nccl",
        init_method=f"file://{tmp_path}/store",
        rank=0,
        world_size=1,
        device_id=torch.device("cuda", torch.cuda.current_device()),
    )
    try:
        table = torch.arange(6).reshape(3, 2)
        (gathered,) = gather(table)
    finally:
        dist.destroy_process_group()
    assert gathered.device == table.device
    torch.testing.assert_close(gathered, table)
