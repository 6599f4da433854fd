"""Classes first, boxes on all the rest afterwards."""

# ruff: noqa: ARG002 (the arguments of the hooks are Lightning's)

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from rcnn.data import DataSource, ShapesSource
from rcnn.data.splits import TrainingSource
from rcnn.data.stored import ProposalFiles
from rcnn.model.backbones import LoadedWeights
from rcnn.model.box_predictor import BoxPredictorSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.speed import SpeedSettings
from rcnn.settings import SettingsError
from rcnn.structures import Proposals
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.optim import AdamWCosine
from rcnn.training.schemes import BOXES, train_stage_wise
from rcnn.training.stages import Plan, StageError, StageRunner, StageStore

SOURCE = ShapesSource(train=4, val=1, test=1, size=64)
QUIET = [
    pytest.mark.filterwarnings("ignore:Total length of .* is zero"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty"),
    pytest.mark.filterwarnings("ignore:Found .* module.* in eval mode"),
]
pytestmark = QUIET


class Mover(pl.Callback):
    """Changes what has to stay as it is, in the step that learns boxes."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DetectionModule)
        if pl_module.settings.box_predictor.box_regression:
            pl_module.state_dict()["detector.roi_heads.box_predictor.cls_score.bias"].add_(1)


def runner(
    settings: DetectorSettings,
    store: Path,
    folder: Path | None = None,
    callbacks: tuple[pl.Callback, ...] = (),
) -> StageRunner:
    """Return a runner of two short steps, on stored proposals if there is a folder of them."""
    plan = Plan(
        settings=settings,
        recipe=AdamWCosine(warmup_steps=1),
        weights=LoadedWeights("random", "for a test"),
        steps=(3, 2),
        seed=0,
        inputs={},
        plus_one=False,
        device=torch.device("cpu"),
        leads=True,
        speed=SpeedSettings(),
    )

    def make_trainer(name: str, folder: Path, steps: int) -> pl.Trainer:
        keep = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
        return pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=-1,
            max_steps=steps,
            callbacks=[keep, *callbacks],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )

    def make_data(_: Path | None) -> DetectionDataModule:
        files = None if folder is None else ProposalFiles(str(folder))
        return DetectionDataModule(
            TrainingSource(SOURCE), LoaderSettings(workers=0), proposals=files
        )

    return StageRunner(plan, StageStore(store), make_data, make_trainer)


def product(store: Path, name: str) -> Path:
    (folder,) = store.glob(f"{name}-*")
    return folder / "module.ckpt"


@pytest.fixture
def small(settings: DetectorSettings) -> DetectorSettings:
    """A backbone with norms that count and a dropout, both of which have to stand still."""
    backbone = replace(settings.backbone, box_head="two_mlp", hidden=16, dropout=0.5)
    return replace(settings, backbone=backbone)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["fast_rcnn", "faster_rcnn"])
def test_the_second_step_learns_boxes_and_moves_nothing_else(
    system: str, small: DetectorSettings, tmp_path: Path, propose: Callable[[DataSource], Path]
) -> None:
    folder = propose(SOURCE) if system == "fast_rcnn" else None
    last = train_stage_wise(runner(small, tmp_path / "stages", folder), system)
    first = DetectionModule.load_from_checkpoint(product(tmp_path / "stages", "1_classes"))
    assert not first.settings.box_predictor.box_regression
    learned = last.state_dict()
    kept = {name for name in learned if not name.startswith(BOXES)}
    assert kept == set(first.state_dict())
    for name, tensor in first.state_dict().items():
        assert torch.equal(learned[name], tensor), name
    # The boxes have learned: biases start at nought.
    assert learned[f"{BOXES}bias"].abs().max() > 0

    # Each RoI has the class scores of the first step, and boxes beside them.
    image = SOURCE.dataset("test")[0].image
    rois = torch.tensor([[4.0, 5.0, 40.0, 30.0], [10.0, 20.0, 50.0, 60.0]])
    outputs = []
    for module in (first, last):
        detector = module.eval().detector
        batch = detector.images.batch([image])
        proposals = Proposals.pad([rois], batch.scales)
        levels = detector.backbone(detector.images.normalise(batch))
        outputs.append(_head(detector, levels, proposals))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert outputs[0].deltas is None
    assert outputs[1].deltas is not None


def _head(detector: Any, levels: list[torch.Tensor], proposals: Proposals) -> Any:
    from rcnn.model.roi_heads import pool_from

    pool = pool_from(levels, detector.backbone, detector.settings.pooling)
    return detector.roi_heads.box_predictor(detector.roi_heads.box_head(pool(proposals.boxes)))


@pytest.mark.slow
def test_what_moves_the_rest_ends_the_run(small: DetectorSettings, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"2_boxes has moved 1 of .*head\.classes\.bias"):
        train_stage_wise(runner(small, tmp_path, callbacks=(Mover(),)), "faster_rcnn")
    assert not list(tmp_path.glob("2_boxes-" + "?" * 12))


@pytest.mark.parametrize(("system", "boxes"), [("rpn", True), ("faster_rcnn", False)])
def test_without_boxes_to_learn_there_are_no_two_steps(
    system: str, boxes: bool, settings: DetectorSettings, tmp_path: Path
) -> None:
    settings = replace(settings, box_predictor=BoxPredictorSettings(box_regression=boxes))
    with pytest.raises(SettingsError, match=r"scheme='stage_wise'.*box_regression=true"):
        train_stage_wise(runner(settings, tmp_path), system)
