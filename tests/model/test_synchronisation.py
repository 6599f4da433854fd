"""A training step never makes the host wait for the device.

A GPU that is read from (a number, a mask, a size that depends on data) has to finish first, and
stands still until the host has caught up. Without a GPU this is seen in two ways. Tensors of the
device ``meta`` have a shape and no values, so that whatever would read one raises. And a mode of
PyTorch's sees every call of a whole run that reads a tensor. The only stage that may wait is
suppression, which has to know how many boxes survive.
"""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger
from rcnn.training.losses_of import Scheme, losses_of
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import rcnn.model.proposals
import rcnn.ops.sampling
from rcnn.data import DetectionBatch, ShapesDataset, ShapesSource, collate
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.build import SYSTEMS, build_detector
from rcnn.model.losses import LossSettings
from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import RoISampling
from rcnn.ops.nms import suppress
from rcnn.structures import Proposals
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.callbacks import EMA, Progress, Throughput

RESNET = BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None)
PYRAMID: dict[str, Any] = {
    "backbone": replace(RESNET, name="resnet18_fpn", hidden=8),
    "anchors": AnchorSettings((8.0,)),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "the default": {},
    "roi_pool": {"pooling": PoolingSettings("roi_pool")},
    "crop": {"pooling": PoolingSettings("crop")},
    "a pyramid": PYRAMID,
    "a pyramid, roi_pool": PYRAMID | {"pooling": PoolingSettings("roi_pool")},
    "a pyramid, crop": PYRAMID | {"pooling": PoolingSettings("crop")},
    "hard mining": {"roi_sampling": RoISampling(samples=16, ohem=True)},
    "repeated background": {"roi_sampling": RoISampling(samples=16, pad_with="background")},
    "giou": {"losses": LossSettings(rpn_box_loss="giou", roi_box_loss="giou")},
    "ciou": {"losses": LossSettings(rpn_box_loss="ciou", roi_box_loss="ciou")},
    "one_vs_rest": {"box_predictor": BoxPredictorSettings(classifier="one_vs_rest")},
    "one box for all classes": {"box_predictor": BoxPredictorSettings(class_agnostic=True)},
    "no boxes": {"box_predictor": BoxPredictorSettings(box_regression=False)},
    "two branches": {"rpn": RPNSettings(branches="separate", objectness="sigmoid")},
}
READING = {
    *("item", "tolist", "cpu", "numpy", "is_nonzero", "equal", "allclose", "bincount"),
    *("__bool__", "__int__", "__float__", "__index__", "__contains__"),
    *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive"),
}
"""What needs the values of a tensor on the host."""


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
            self.found.append(f"{func} {place(traceback.extract_stack())}")
        return result


class Reads(TorchFunctionMode):
    """Notes every call that reads a tensor, but for what may.

    Suppression may; on a CPU the matching may look whether there is a crowd; and loading data is
    the host's own work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in READING:
            stack = traceback.extract_stack()
            allowed = {"suppress", "best_match"} & {frame.name for frame in stack}
            if not allowed and not any("torch/utils/data" in one.filename for one in stack):
                self.found.append(f"{func.__name__} {place(stack)}")
        return func(*args, **(kwargs or {}))


def place(stack: traceback.StackSummary) -> str:
    """Return the innermost functions that are being run, outermost first."""
    frames = [frame for frame in stack if frame.filename != __file__][-4:]
    return " > ".join(f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in frames)


def without_waiting(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Stand in for suppression: keep what has the highest scores."""
    kept = scores.topk(min(limit, scores.shape[1]), dim=1).indices
    return kept, valid.gather(1, kept)


@pytest.fixture
def waiting_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but suppression is replaced."""
    monkeypatch.setattr(rcnn.model.proposals, "suppress", without_waiting)
    monkeypatch.setattr(rcnn.ops.sampling, "suppress", without_waiting)


@pytest.fixture
def small() -> DetectorSettings:
    return DetectorSettings(
        ("circle", "square", "triangle"),
        backbone=RESNET,
        anchors=AnchorSettings((1.0, 2.0)),
        roi_sampling=RoISampling(samples=16),
        warp=WarpSettings(112),
    )


def minibatch(objects: int = 3) -> DetectionBatch:
    """Two images, the first with so many objects, the second with none; and their proposals."""
    images = ShapesDataset(2, size=128)
    batch = collate([images[0], images[1]], 32)
    targets = batch.targets._map(lambda one: one[:, :1].repeat_interleave(objects, dim=1))
    targets = replace(targets, labels=targets.labels * torch.tensor([[1], [0]]))
    boxes = torch.tensor([[10.0, 10, 90, 90], [0, 30, 60, 100]])
    proposals = Proposals.pad([boxes, boxes[:1]], batch.images.scales)
    return replace(batch, targets=targets, images=replace(batch.images, proposals=proposals))


def step_on_meta(
    system: str, settings: DetectorSettings, batch: DetectionBatch, scheme: Scheme = "joint"
) -> list[str]:
    """Run a step of a detector without values, and return what it copies to the device."""
    with torch.device("meta"):
        detector = build_detector(system, settings)
    batch = batch.to("meta")
    with Uploads() as uploads:
        losses = losses_of(scheme, detector, batch.images, batch.targets, torch.Generator())
        losses.total.backward()
    assert all(one.grad is not None for one in detector.parameters() if one.requires_grad)
    return uploads.found


@pytest.mark.usefixtures("waiting_nowhere")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_of_any_variant_waits_nowhere(variant: str, small: DetectorSettings) -> None:
    settings = replace(small, **VARIANTS[variant])
    assert step_on_meta("faster_rcnn", settings, minibatch()) == []


@pytest.mark.usefixtures("waiting_nowhere")
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_of_any_system_waits_nowhere(system: str, small: DetectorSettings) -> None:
    if system == "sppnet":
        linear = replace(RESNET, box_head="two_mlp", hidden=8)
        small = replace(small, backbone=linear, pooling=PoolingSettings("pyramid"))
    assert step_on_meta(system, small, minibatch()) == []


@pytest.mark.usefixtures("waiting_nowhere")
@pytest.mark.parametrize("objects", [0, 1, 3])
@pytest.mark.parametrize("scheme", ["joint", "exact"])
def test_a_step_with_any_number_of_objects_waits_nowhere(
    scheme: Scheme, objects: int, small: DetectorSettings
) -> None:
    assert step_on_meta("faster_rcnn", small, minibatch(objects), scheme) == []


def test_suppression_is_what_waits(small: DetectorSettings) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        step_on_meta("faster_rcnn", small, minibatch())
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


class Watch(pl.Callback):
    """Watches the steps 2 to 5, from the start of the first to the start of the one behind them."""

    def __init__(self) -> None:
        self.reads = Reads()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            self.reads.__enter__()
        elif batch_idx == 5:
            self.reads.__exit__(None, None, None)


def reads_of_training(
    module: pl.LightningModule, folder: Path, *callbacks: pl.Callback, log_every: int = 50
) -> list[str]:
    """Train for six steps and return what was read in four of them.

    :class:`FiniteLoss` is not among the callbacks: where the device is a CPU it looks at each step.
    """
    watch = Watch()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=[*callbacks, watch],
        logger=CSVLogger(folder),
        log_every_n_steps=log_every,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=any(isinstance(one, Progress) for one in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    source = ShapesSource(train=12, val=2, test=2, size=64)
    trainer.fit(module, DetectionDataModule(source, LoaderSettings(workers=0)))
    return watch.reads.found


def test_between_two_logs_a_training_reads_nothing(module: DetectionModule, tmp_path: Path) -> None:
    callbacks = (EMA(), Throughput(), LearningRateMonitor("step"), Progress(refresh_rate=50))
    assert reads_of_training(module, tmp_path, *callbacks) == []


def test_what_is_logged_and_drawn_is_read_when_it_is_due(
    module: DetectionModule, tmp_path: Path
) -> None:
    reads = reads_of_training(module, tmp_path, Progress(refresh_rate=2), log_every=2)
    drawn = [one for one in reads if "progress.py" in one]
    assert len(drawn) == 2  # after steps 2 and 4, all losses at once
    assert len(reads) > len(drawn)
    assert all("convert_tensors_to_scalars" in one for one in reads if one not in drawn)


@contextmanager
def _errors() -> Iterator[None]:
    """Let CUDA raise where the host would wait."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("variant", ["the default", "a pyramid", "hard mining", "ciou"])
def test_on_a_gpu_nothing_but_suppression_waits(
    variant: str, small: DetectorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allowed(*arguments: Any) -> tuple[Tensor, Tensor]:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return suppress(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    monkeypatch.setattr(rcnn.model.proposals, "suppress", allowed)
    monkeypatch.setattr(rcnn.ops.sampling, "suppress", allowed)
    module = DetectionModule(replace(small, **VARIANTS[variant])).to("cuda")
    optimizer, _ = module.recipe(module.detector, total_steps=9, images_per_step=2)
    pinned = minibatch().pin_memory()

    def step() -> None:
        batch = pinned.to("cuda", non_blocking=True)
        losses = losses_of(
            "joint", module.detector, batch.images, batch.targets, module._generator(0)
        )
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # libraries and the optimiser's state are set up
    with _errors():
        step()
