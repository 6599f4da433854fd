"""Every system in the loop: a step, a validation, a checkpoint, prediction."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from rcnn.data import DataSource, ShapesSource
from rcnn.data.stored import ProposalFiles
from rcnn.model.build import SYSTEMS, needs_proposals
from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
from rcnn.model.settings import DetectorSettings
from rcnn.structures import Detections
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.optim import AdamWCosine

MakeTrainer = Callable[..., pl.Trainer]
Propose = Callable[[DataSource], Path]
NEEDY = [system for system in SYSTEMS if needs_proposals(system)]
OWN = [system for system in SYSTEMS if not needs_proposals(system)]
BOXES = torch.tensor([[5.0, 5.0, 40.0, 40.0], [10.0, 2.0, 60.0, 30.0]])


def module_of(system: str, settings: DetectorSettings) -> DetectionModule:
    if system == "sppnet":
        linear = replace(settings.backbone, box_head="two_mlp", hidden=16)
        settings = replace(settings, pooling=PoolingSettings("pyramid"), backbone=linear)
    if system == "rcnn":
        pooling = PoolingSettings(size=2)
        settings = replace(settings, warp=WarpSettings(size=32, context=2), pooling=pooling)
    torch.manual_seed(0)
    return DetectionModule(settings, system=system, recipe=AdamWCosine(warmup_steps=1))


@pytest.fixture
def data(propose: Propose) -> DetectionDataModule:
    source = ShapesSource(train=4, val=2, test=3, size=64)
    files = ProposalFiles(str(propose(source)))
    return DetectionDataModule(source, LoaderSettings(workers=0), proposals=files)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_learns_and_is_validated_and_tested(
    system: str, settings: DetectorSettings, data: DetectionDataModule, trainer: MakeTrainer
) -> None:
    module = module_of(system, settings)
    before = {name: tensor.clone() for name, tensor in module.named_parameters()}
    run = trainer()
    run.fit(module, data)
    assert run.global_step == 2
    after = dict(module.named_parameters())
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {name for name in after if after[name].requires_grad}
    metrics = set(run.callback_metrics)
    stages = {"rpn": {"rpn"}, "faster_rcnn": {"rpn", "roi"}}.get(system, {"roi"})
    losses = {f"{split}/loss" for split in ("train", "val")}
    terms = {"rpn": ("objectness", "boxes"), "roi": ("classes", "boxes")}
    losses |= {
        f"{split}/loss_{stage}_{term}"
        for split in ("train", "val")
        for stage in stages
        for term in terms[stage]
    }
    assert {name for name in metrics if "/loss" in name} == losses
    assert ("val/map" in metrics) == (system != "rpn")
    assert "val/recall_300" in metrics
    (tested,) = run.test(module, data, verbose=False)
    assert ("test/map" in tested) == (system != "rpn")
    assert "test/recall_300" in tested
    classes = set() if system == "rpn" else set(module.class_names)
    assert set(module.per_class["test"]) == classes


@pytest.mark.parametrize("system", NEEDY)
def test_recall_is_that_of_the_given_proposals(
    system: str, settings: DetectorSettings, data: DetectionDataModule, trainer: MakeTrainer
) -> None:
    """They are exactly the objects, and none is too small."""
    limits = replace(settings.proposals, min_size=0.0)
    module = module_of(system, replace(settings, proposals=limits))
    (tested,) = trainer().test(module, data, verbose=False)
    assert tested["test/recall_300"] == pytest.approx(1.0)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_checkpoint_knows_its_system(
    system: str, settings: DetectorSettings, tmp_path: Path, trainer: MakeTrainer
) -> None:
    module = module_of(system, settings)
    run = trainer()
    run.strategy.connect(module)
    path = tmp_path / "some.ckpt"
    run.save_checkpoint(path, weights_only=True)
    loaded = DetectionModule.load_from_checkpoint(path)
    assert loaded.system == system
    assert type(loaded.detector) is SYSTEMS[system]
    assert loaded.settings == module.settings
    picture = torch.randint(256, (3, 50, 70), dtype=torch.uint8)
    proposals = [BOXES] if needs_proposals(system) else None
    one, two = (m.predict([picture], proposals=proposals)[0] for m in (module, loaded))
    torch.testing.assert_close(one.boxes, two.boxes)
    torch.testing.assert_close(one.scores, two.scores)


@pytest.mark.parametrize("system", NEEDY)
def test_pictures_come_with_their_proposals(system: str, settings: DetectorSettings) -> None:
    module = module_of(
        system, replace(settings, detections=replace(settings.detections, score=0.0))
    )
    picture = torch.randint(256, (3, 50, 70), dtype=torch.uint8)
    one = module.predict(picture, proposals=[BOXES])
    assert isinstance(one, Detections)
    assert len(one) > 0
    several = module.predict([picture] * 3, 2, [BOXES, BOXES[:0], BOXES[:1]])
    assert [len(found) > 0 for found in several] == [True, False, True]
    torch.testing.assert_close(several[0].boxes, one.boxes, atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("system", NEEDY)
@pytest.mark.parametrize(
    ("proposals", "given"),
    [(None, "none are"), ([], "those of 0 are"), ([BOXES], "of 1 are"), ([BOXES] * 3, "of 3 are")],
    ids=["none", "empty", "too few", "too many"],
)
def test_pictures_without_theirs_are_refused_before_any_is_looked_at(
    system: str,
    settings: DetectorSettings,
    proposals: list[torch.Tensor] | None,
    given: str,
) -> None:
    module = module_of(system, settings)
    picture = torch.zeros(3, 50, 70, dtype=torch.uint8)
    message = f"makes no proposals itself.*each of the 2 pictures; .*{given} given"
    with pytest.raises(ValueError, match=message):
        module.predict([picture, picture], proposals=proposals)


@pytest.mark.parametrize("system", OWN)
def test_a_system_that_makes_its_own_takes_none(system: str, settings: DetectorSettings) -> None:
    module = module_of(system, settings)
    picture = torch.zeros(3, 50, 70, dtype=torch.uint8)
    with pytest.raises(ValueError, match="makes its own proposals"):
        module.predict(picture, proposals=[BOXES])
    names = ("object",) if system == "rpn" else module.class_names
    assert module.predict(picture).class_names == names


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_trainer_predicts_with_every_system(
    system: str, settings: DetectorSettings, data: DetectionDataModule, trainer: MakeTrainer
) -> None:
    batches = trainer().predict(module_of(system, settings), data)
    assert batches is not None
    assert [len(found) for found in batches] == [2, 1]


def test_data_without_proposals_is_told_with_the_way_out(
    settings: DetectorSettings, trainer: MakeTrainer
) -> None:
    source = ShapesSource(train=2, val=2, test=2, size=64)
    bare = DetectionDataModule(source, LoaderSettings(workers=0))
    with pytest.raises(ValueError, match=r"came without proposals.*proposals\.folder"):
        trainer().fit(module_of("fast_rcnn", settings), bare)


def test_a_detector_for_other_classes_keeps_its_system(settings: DetectorSettings) -> None:
    tuned = module_of("fast_rcnn", settings).for_classes(["cell"])
    assert tuned.system == "fast_rcnn"
    assert tuned.detector.settings.class_names == ("cell",)


def test_the_convolutions_of_sppnet_are_no_part_of_the_optimiser(
    settings: DetectorSettings,
) -> None:
    module = module_of("sppnet", settings)
    optimiser, _ = AdamWCosine()(module.detector, total_steps=10, images_per_step=2)
    learned = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert learned == {id(p) for p in module.detector.get_submodule("regions").parameters()}
