"""A training step never makes the host wait for the device.

A GPU that is read from (a number, a mask, a size that depends on data) has to finish first, and is
idle until the host has caught up. Without a GPU this is seen with tensors of the device ``meta``,
which have a shape and no values, so that whatever would read one raises. The only stage that may
wait is suppression, which has to know how many boxes survive.
"""

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import rcnn.model.proposals
import rcnn.ops.sampling
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.build import SYSTEMS, build_detector
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.losses import LossSettings
from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.ops.nms import suppress
from rcnn.structures import ImageBatch, Proposals, Targets
from tests.model.inputs import Object, noise_of, targets_of

RESNET = BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None)
TWO_MLP = replace(RESNET, box_head="two_mlp", hidden=8)
PYRAMID: dict[str, Any] = {
    "backbone": replace(RESNET, name="resnet18_fpn", hidden=8),
    "anchors": AnchorSettings((8.0,)),
}
SMALL = DetectorSettings(
    ("circle", "square", "triangle"),
    images=ImageSettings(shorter_side=128, longer_side=128),
    backbone=RESNET,
    anchors=AnchorSettings((1.0, 2.0)),
    roi_sampling=RoISampling(samples=16),
    warp=WarpSettings(112),
)
VARIANTS: dict[str, dict[str, Any]] = {
    "the default": {},
    "roi_pool": {"pooling": PoolingSettings("roi_pool")},
    "crop": {"pooling": PoolingSettings("crop")},
    "a pyramid": PYRAMID,
    "a pyramid, roi_pool": PYRAMID | {"pooling": PoolingSettings("roi_pool")},
    "a pyramid, crop": PYRAMID | {"pooling": PoolingSettings("crop")},
    "hard examples": {"roi_sampling": RoISampling(samples=16, ohem=True)},
    "repeated background": {"roi_sampling": RoISampling(samples=16, pad_with="background")},
    "giou": {"losses": LossSettings(rpn_box_loss="giou", roi_box_loss="giou")},
    "ciou": {"losses": LossSettings(rpn_box_loss="ciou", roi_box_loss="ciou")},
    "one_vs_rest": {"box_predictor": BoxPredictorSettings(classifier="one_vs_rest")},
    "one box for all classes": {"box_predictor": BoxPredictorSettings(class_agnostic=True)},
    "no boxes": {"box_predictor": BoxPredictorSettings(box_regression=False)},
    "two branches": {"rpn": RPNSettings(branches="separate", objectness="sigmoid")},
}
OBJECTS: list[Object] = [
    (10.0, 10.0, 90.0, 90.0, 1),
    (5.0, 30.0, 60.0, 100.0, 2),
    (40.0, 20.0, 120.0, 80.0, 3),
]


class Uploads(TorchDispatchMode):
    """Notes tensors that are made on the host in the midst of a step and copied to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        from_host = any(isinstance(one, Tensor) and one.is_cpu and one.ndim for one in args)
        made = from_host or func is torch.ops.aten.lift_fresh.default
        if made and isinstance(result, Tensor) and result.is_meta:
            frames = [one for one in traceback.extract_stack() if one.filename != __file__][-4:]
            calls = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in frames]
            self.found.append(f"{func} {' > '.join(calls)}")
        return result


@pytest.fixture
def replace_suppression(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    def put(function: Any) -> None:
        monkeypatch.setattr(rcnn.model.proposals, "suppress", function)
        monkeypatch.setattr(rcnn.ops.sampling, "suppress", function)

    return put


@pytest.fixture
def suppression_never_waits(replace_suppression: Callable[[Any], None]) -> None:
    """Keep what has the highest scores; nothing else is replaced."""

    def best(
        boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou: float, limit: int
    ) -> tuple[Tensor, Tensor]:
        kept = scores.topk(min(limit, scores.shape[1]), dim=1).indices
        return kept, valid.gather(1, kept)

    replace_suppression(best)


def minibatch(objects: int = 3) -> tuple[ImageBatch, Targets]:
    """Two images, the first with so many objects, the second with none; and their proposals."""
    boxes = torch.tensor([[10.0, 10, 90, 90], [0, 30, 60, 100]])
    batch = noise_of((128, 128), (128, 128))
    batch = replace(batch, proposals=Proposals.pad([boxes, boxes[:1]], batch.scales))
    return batch, targets_of(OBJECTS[:objects], [])


def step_on_meta(
    system: str, settings: DetectorSettings, objects: int = 3, *, exact: bool = False
) -> list[str]:
    """Run a step of a detector without values, and return what it copies to the device."""
    with torch.device("meta"):
        detector = build_detector(system, settings)
    batch, targets = minibatch(objects)
    batch, targets = batch.to("meta"), targets.to("meta")
    uploads = Uploads()
    with uploads:
        if exact:
            assert isinstance(detector, FasterRCNN)
            losses = detector.losses(batch, targets, torch.Generator(), exact=True)
        else:
            losses = detector.losses(batch, targets, torch.Generator())
        losses.total.backward()
    assert all(one.grad is not None for one in detector.parameters() if one.requires_grad)
    return uploads.found


@pytest.mark.usefixtures("suppression_never_waits")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_of_any_variant_waits_nowhere(variant: str) -> None:
    assert step_on_meta("faster_rcnn", replace(SMALL, **VARIANTS[variant])) == []


@pytest.mark.usefixtures("suppression_never_waits")
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_of_any_system_waits_nowhere(system: str) -> None:
    settings = SMALL
    if system == "sppnet":
        settings = replace(SMALL, backbone=TWO_MLP, pooling=PoolingSettings("pyramid"))
    assert step_on_meta(system, settings) == []


@pytest.mark.usefixtures("suppression_never_waits")
@pytest.mark.parametrize("objects", [0, 1, 3])
@pytest.mark.parametrize("exact", [False, True])
def test_a_step_with_any_number_of_objects_waits_nowhere(exact: bool, objects: int) -> None:
    assert step_on_meta("faster_rcnn", SMALL, objects, exact=exact) == []


def test_suppression_is_what_waits() -> None:
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        step_on_meta("faster_rcnn", SMALL)
    assert any(frame.name == suppress.__name__ for frame in caught.traceback)


@pytest.mark.parametrize(
    "reading",
    [
        lambda x: x.sum().item(),
        lambda x: 1 if x.any() else 0,
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x.unique(),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: torch.repeat_interleave(x, (x > 0).long()),
    ],
)
def test_whatever_reads_the_device_is_found(reading: Any) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        reading(torch.zeros(3, device="meta"))


def test_whatever_is_copied_to_the_device_is_found() -> None:
    with Uploads() as uploads:
        torch.zeros(3, device="meta") + 1
        torch.ones(2).to("meta")
    assert len(uploads.found) == 1


@pytest.mark.skipif(torch.__version__ < "2.15", reason="older versions hide it from dispatch modes")
def test_numbers_that_are_written_to_the_device_are_found() -> None:
    with Uploads() as uploads:
        torch.tensor([1.0, 2.0, 3.0], device="meta")
    assert len(uploads.found) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("variant", ["the default", "a pyramid", "hard examples", "ciou"])
def test_on_a_gpu_nothing_but_suppression_waits(
    variant: str, replace_suppression: Callable[[Any], None]
) -> None:
    def allowed(*arguments: Any) -> tuple[Tensor, Tensor]:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return suppress(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    replace_suppression(allowed)
    detector = build_detector("faster_rcnn", replace(SMALL, **VARIANTS[variant])).to("cuda")
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.001, momentum=0.9, fused=True)
    batch, targets = minibatch()
    pinned = batch.pin_memory(), targets.pin_memory()
    generator = torch.Generator("cuda").manual_seed(0)

    def step() -> None:
        batch, targets = (
            pinned[0].to("cuda", non_blocking=True),
            pinned[1].to("cuda", non_blocking=True),
        )
        detector.losses(batch, targets, generator).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # libraries and the optimiser's state are set up
    torch.cuda.set_sync_debug_mode("error")  # CUDA raises where the host would wait
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
