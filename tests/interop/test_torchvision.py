"""A torchvision detector and its counterpart find and learn the same; weights go both ways."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from rcnn.interop import (
    InteropError,
    from_torchvision,
    load_torchvision,
    to_torchvision_state_dict,
)
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.backbones.backbone import freeze_norms
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.ops.boxes import scale
from rcnn.settings import SettingsError
from rcnn.structures import Detections, GroundTruth, ImageBatch, Targets

Assemble = Callable[..., TorchvisionFasterRCNN]
Lively = Callable[[TorchvisionFasterRCNN], TorchvisionFasterRCNN]
NAMES = [
    "resnet50_fpn",
    "mobilenet_fpn",
    "mobilenet_320_fpn",
    "resnet18_fpn",
    "resnet18_c4",
    "resnet18_c4_sequential",
    "vgg16_c4",
]

GROUND_TRUTH = [
    ([[10.0, 20.0, 70.0, 90.0], [60.0, 5.0, 140.0, 60.0], [90.0, 50.0, 120.0, 95.0]], [1, 4, 2]),
    ([], []),
    ([[30.0, 30.0, 100.0, 110.0]], [3]),
]


def _ground_truth() -> list[GroundTruth]:
    ground_truth = []
    for boxes, labels in GROUND_TRUTH:
        flags = torch.zeros(len(labels), dtype=torch.bool)
        ground_truth.append(
            GroundTruth(
                boxes=torch.tensor(boxes).reshape(-1, 4),
                labels=torch.tensor(labels, dtype=torch.long),
                difficult=flags,
                crowd=flags,
                areas=torch.zeros(len(labels)),
            )
        )
    return ground_truth


def _resized(targets: Targets, batch: ImageBatch) -> Targets:
    boxes = scale(targets.boxes, batch.scales)
    return Targets(boxes, targets.labels, targets.difficult, targets.crowd)


def _assert_same_detections(ours: Detections, theirs: dict[str, Tensor]) -> None:
    """One detection of ours for each of theirs; equal scores may come in any order."""
    assert len(ours) == len(theirs["boxes"])
    same = (ours.labels[:, None] == theirs["labels"]) & (
        (ours.scores[:, None] - theirs["scores"]).abs() < 1e-4
    )
    same &= ((ours.boxes[:, None] - theirs["boxes"]).abs() < 0.01).all(dim=2)
    assert same.any(dim=0).all()
    assert same.any(dim=1).all()
    assert_close(ours.scores, theirs["scores"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_images_give_the_same_detections_and_losses(
    name: str, assemble: Assemble, lively: Lively, images: list[Tensor]
) -> None:
    model = lively(assemble(name))
    detector = from_torchvision(model)
    assert not detector.training

    proposals: list[Tensor] = []
    hook = model.rpn.register_forward_hook(lambda *call: proposals.extend(call[2][0]))
    with torch.no_grad():
        expected = model(images)
    hook.remove()
    batch = detector.transform.batch(images)
    detections, found = detector.detect_batch(batch)
    for i, boxes in enumerate(proposals):
        ours = found.boxes[i, found.valid[i]]
        assert ours.shape == boxes.shape
        distance = (ours[:, None] - boxes).abs().amax(dim=2)
        assert distance.min(dim=0).values.max() < 0.01
        assert distance.min(dim=1).values.max() < 0.01
    for one, other in zip(detections, expected, strict=True):
        assert len(one) > 30
        assert len(one.labels.unique()) >= 3
        _assert_same_detections(one, other)

    ground_truth = _ground_truth()
    targets = [{"boxes": image.boxes, "labels": image.labels} for image in ground_truth]
    with torch.no_grad():
        terms = model.train()(images, targets)
        losses = detector.train().losses(batch, _resized(Targets.pad(ground_truth), batch))
    assert losses.counts.rois_foreground is not None
    assert losses.counts.rois_foreground > 4
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_boxes": "loss_rpn_box_reg",
        "roi_classes": "loss_classifier",
        "roi_boxes": "loss_box_reg",
    }
    assert set(losses.named) == set(names)
    for ours_name, theirs_name in names.items():
        assert_close(losses.named[ours_name], terms[theirs_name], rtol=1e-4, atol=0)


def test_one_class_is_enough(assemble: Assemble, images: list[Tensor]) -> None:
    model = assemble("resnet18_fpn", num_classes=2, box_score_thresh=0.0).eval()
    detector = from_torchvision(model, ["cell"])
    with torch.no_grad():
        expected = model(images)
    for one, other in zip(detector.detect(images), expected, strict=True):
        assert set(one.names) == {"cell"}
        _assert_same_detections(one, other)


def test_the_model_stays_as_it_is(assemble: Assemble) -> None:
    model = assemble("mobilenet_fpn").train()
    model.backbone.get_submodule("body.3").eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    detector = from_torchvision(model)
    assert detector.training
    detector.rpn.head.conv.weight.detach().zero_()
    assert [part.training for part in model.modules()] == modes
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


# --- refused --------------------------------------------------------------------------------------


def _stride(model: TorchvisionFasterRCNN) -> None:
    model.backbone.append(nn.MaxPool2d(2))


def _activation(model: TorchvisionFasterRCNN) -> None:
    model.backbone[-1] = nn.ReLU6()
    model.backbone[-2].bias.detach().add_(10)


def _box_head(model: TorchvisionFasterRCNN) -> None:
    model.roi_heads.box_head.forward = lambda pooled: pooled.flatten(1)[:, :1024].tanh()


@pytest.mark.parametrize(
    ("change", "part"),
    [(_stride, "backbone"), (_activation, "backbone"), (_box_head, "roi_heads.box_head")],
)
def test_the_tensors_of_a_known_network_in_another_one_are_found_out(
    change: Callable[[TorchvisionFasterRCNN], None], part: str, assemble: Assemble
) -> None:
    model = assemble("vgg16_c4")
    change(model)
    with pytest.raises(InteropError, match=rf"^{part} is not supported: .*computes something else"):
        from_torchvision(model)


def test_pooling_from_other_levels_is_refused(assemble: Assemble) -> None:
    pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2)
    with pytest.raises(InteropError, match=r"featmap_names.*Supported is \['0', '1', '2', '3'\]"):
        from_torchvision(assemble("resnet18_fpn", box_roi_pool=pool))


def test_a_wrong_number_of_anchor_levels_is_refused(assemble: Assemble) -> None:
    model = assemble("resnet18_fpn", rpn_anchor_generator=AnchorGenerator(((8,),), ((0.5, 1, 2),)))
    with pytest.raises(InteropError, match=r"sizes lists 1 levels"):
        from_torchvision(model)


def test_other_modules_and_additional_tensors_are_refused(assemble: Assemble) -> None:
    with pytest.raises(InteropError, match=r"detection.FasterRCNN is needed, not a Linear"):
        from_torchvision(nn.Linear(1, 1))
    model = assemble("resnet18_c4")
    model.roi_heads.register_buffer("temperature", torch.ones(1))
    with pytest.raises(InteropError, match=r"no counterpart.*roi_heads.temperature"):
        from_torchvision(model)


# --- class names ----------------------------------------------------------------------------------


def test_ninety_one_rows_are_named_as_in_coco_and_others_are_numbered(assemble: Assemble) -> None:
    names = from_torchvision(assemble("mobilenet_fpn", num_classes=91)).settings.class_names
    assert len(names) == len(set(names)) == 90
    assert (names[0], names[89]) == ("person", "toothbrush")
    unused = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]  # ids that COCO does not use
    assert [name for name in names if name.startswith("N/A")] == [f"N/A {i}" for i in unused]
    few = assemble("mobilenet_fpn", num_classes=3)
    assert from_torchvision(few).settings.class_names == ("class 1", "class 2")
    assert from_torchvision(few, ["b", "a"]).settings.class_names == ("b", "a")


@pytest.mark.parametrize("given", [["background", "a", "b"], ["a"], "ab", []])
def test_a_wrong_number_of_names_is_refused(given: list[str], assemble: Assemble) -> None:
    with pytest.raises(InteropError, match=r"^class_names=.* 3 rows.* 2 names"):
        from_torchvision(assemble("mobilenet_fpn", num_classes=3), given)


# --- files ----------------------------------------------------------------------------------------


def _old_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys that torchvision had before its RPN could have several convolutions."""
    return {
        key.replace("rpn.head.conv.0.0.", "rpn.head.conv.").replace("_blocks.0.0.", "_blocks.0."): t
        for key, t in state.items()
    }


def test_a_file_gives_the_weights_of_the_model_and_the_settings_of_the_builder(
    assemble: Assemble, tmp_path: Path
) -> None:
    model, path = assemble("mobilenet_fpn"), tmp_path / "model.pth"
    torch.save(model.state_dict(), path)
    detector = load_torchvision(path, "fasterrcnn_mobilenet_v3_large_320_fpn", ["a", "b", "c", "d"])
    settings = detector.settings
    assert not detector.training
    assert settings.class_names == ("a", "b", "c", "d")
    assert (settings.images.shorter_side, settings.images.longer_side) == (320, 640)
    assert (settings.proposals.score, settings.proposals.before_nms_test) == (0.05, 150)
    expected = from_torchvision(model)
    assert settings.backbone == expected.settings.backbone
    state = detector.state_dict()
    assert set(state) == set(expected.state_dict())
    for key, tensor in expected.state_dict().items():
        assert torch.equal(state[key], tensor), key


def test_older_keys_and_a_training_checkpoint_are_understood(
    assemble: Assemble, tmp_path: Path
) -> None:
    model, path = assemble("mobilenet_fpn"), tmp_path / "checkpoint.pth"
    torch.save({"model": _old_layout(model.state_dict()), "epoch": 3}, path)
    detector = load_torchvision(str(path), "fasterrcnn_mobilenet_v3_large_fpn")
    assert detector.settings.images.shorter_side == 800
    assert torch.equal(detector.rpn.head.conv.weight, model.rpn.head.conv[0][0].weight)


def test_frozen_norms_stay_frozen_and_an_epsilon_may_be_given(assemble: Assemble) -> None:
    name, model = "fasterrcnn_mobilenet_v3_large_fpn", assemble("mobilenet_fpn")
    learning = load_torchvision(model.state_dict(), name, norm_eps=0.001).settings.backbone
    assert (learning.norm, learning.norm_eps) == ("batch", 0.001)
    state = freeze_norms(model).state_dict()
    frozen = load_torchvision(state, name).settings.backbone
    assert (frozen.norm, frozen.norm_eps, frozen.frozen_stages) == ("frozen", 1e-5, 0)


def test_the_released_coco_weights_need_no_epsilon_and_others_do(assemble: Assemble) -> None:
    """``fasterrcnn_resnet50_fpn_coco-258fb6c6.pth``: 91 rows, frozen norms, older keys."""
    state = _old_layout(freeze_norms(assemble("resnet50_fpn", num_classes=91)).state_dict())
    settings = load_torchvision(state, "fasterrcnn_resnet50_fpn").settings
    assert settings.class_names[0] == "person"
    assert (settings.backbone.norm, settings.backbone.norm_eps) == ("frozen", 0.0)
    few = freeze_norms(assemble("resnet50_fpn")).state_dict()
    with pytest.raises(InteropError, match=r"norm_eps=0.0 .* norm_eps=1e-5"):
        load_torchvision(few, "fasterrcnn_resnet50_fpn")


def test_other_builders_and_weights_of_another_builder_are_refused(assemble: Assemble) -> None:
    state = assemble("mobilenet_fpn").state_dict()
    for builder in ("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50"):
        with pytest.raises(InteropError, match=r"did you mean 'fasterrcnn_resnet50_fpn'\? "):
            load_torchvision(state, builder)
    with pytest.raises(InteropError, match=r"^The state dict does not fit .* Missing key.*$"):
        load_torchvision(state, "fasterrcnn_resnet50_fpn")


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    builder = "fasterrcnn_mobilenet_v3_large_fpn"
    path = tmp_path / "file.pth"
    with pytest.raises(InteropError, match=r"no file .*file.pth"):
        load_torchvision(path, builder)
    path.write_bytes(b"not a file of torch")
    with pytest.raises(InteropError, match=r"file.pth cannot be read"):
        load_torchvision(path, builder)
    torch.save([1, 2, 3], path)
    with pytest.raises(InteropError, match=r"file.pth holds no state dict"):
        load_torchvision(path, builder)
    torch.save({"fc.weight": torch.zeros(3, 2)}, path)
    with pytest.raises(InteropError, match=r"it has no roi_heads.*but fc.weight"):
        load_torchvision(path, builder)


# --- and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg16_c4", "mobilenet_fpn", "resnet18_fpn", "resnet18_c4"])
def test_there_and_back_is_the_same_state_dict(assemble: Assemble, name: str) -> None:
    model = assemble(name)
    for key, tensor in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            tensor.fill_(5)
        elif tensor.ndim == 1:
            tensor.uniform_(0.5, 1.0)
        else:
            tensor.normal_(std=0.02)
    expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    detector = from_torchvision(model)
    state = to_torchvision_state_dict(detector)
    assert set(state) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor), key
    # The state dict shares no memory with the detector.
    before = detector.rpn.head.conv.weight.clone()
    state["rpn.head.conv.0.0.weight"].zero_()
    assert torch.equal(detector.rpn.head.conv.weight, before)


def own(**changes: Any) -> FasterRCNN:
    """A detector with the paper's softmax."""
    torch.manual_seed(4)
    return FasterRCNN(
        DetectorSettings(
            **{
                "class_names": ("a", "b", "c", "d"),
                "backbone": BackboneSettings(
                    name="resnet18", norm="batch", weights=None, frozen_stages=0
                ),
                "anchors": AnchorSettings(sizes=((24.0, 48.0, 96.0),), ratios=(0.5, 1.0, 2.0, 3.0)),
                "rpn": RPNSettings(channels=256, objectness="softmax"),
                **changes,
            }
        )
    )


def test_softmax_objectness_becomes_a_sigmoid_of_the_same_value(assemble: Assemble) -> None:
    detector = own().eval()
    model = assemble("resnet18_c4")
    # Batch norms have a count of batches, which frozen ones pass over.
    model.load_state_dict(to_torchvision_state_dict(detector))
    level = torch.randn(1, 256, 3, 4)
    logits, deltas = model.rpn.head([level])
    ours_logits, ours_deltas = detector.rpn.head([level])
    # here: (s0 r0) (s0 r1) ... (s1 r0) ...; there: all sizes of r0, then of r1 ...
    order = [size * 4 + ratio for ratio in range(4) for size in range(3)]

    def per_cell(values: Tensor) -> Tensor:
        cells: Tensor = values.unflatten(1, (3, 4, 12))[:, :, :, order]
        return cells

    there = logits[0].permute(0, 2, 3, 1)
    assert_close(there, per_cell(ours_logits[0]), atol=1e-6, rtol=1e-5)
    there = deltas[0].permute(0, 2, 3, 1).unflatten(3, (12, 4))
    assert_close(there, per_cell(ours_deltas[0]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rpn": RPNSettings(channels=64)}, "rpn.channels=64"),
        ({"rpn": RPNSettings(channels=256, branches="separate")}, "rpn.branches='separate'"),
        (
            {"box_predictor": BoxPredictorSettings(class_agnostic=True)},
            "box_predictor.class_agnostic=True",
        ),
        ({"deltas": DeltaSettings(mean=(0.0, 0.0, 0.1, 0.0))}, "deltas.mean="),
    ],
)
def test_what_torchvision_cannot_express_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        to_torchvision_state_dict(own(**changes))


def test_a_users_own_backbone_is_refused() -> None:
    detector = own()
    backbone = replace(detector.settings.backbone, name="someones_project.build")
    detector.settings = replace(detector.settings, backbone=backbone)
    with pytest.raises(SettingsError, match=r"backbone.name='someones_project.build'.*vgg16"):
        to_torchvision_state_dict(detector)
