"""The LightningModule: every system in the loop, copies, checkpoints, two processes."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import rcnn
from rcnn.data import DataSource, ShapesDataset, ShapesSource, collate
from rcnn.data.proposals import ProposalFiles
from rcnn.inference.checkpoint import CheckpointError
from rcnn.model.backbones import BackboneSettings
from rcnn.model.build import SYSTEMS, needs_proposals
from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
from rcnn.model.settings import DeltaSettings, DetectorSettings
from rcnn.model.speed import SpeedSettings
from rcnn.settings import SettingsError
from rcnn.structures import Targets
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings
from rcnn.training.callbacks import EMA
from rcnn.training.checkpoints import save
from rcnn.training.module import Scheme
from rcnn.training.optim import AdamWCosine, PaperSGD
from tests.training.toy import MakeTrainer, TwoProcesses

Propose = Callable[[DataSource], Path]
NEEDY = [system for system in SYSTEMS if needs_proposals(system)]
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
def proposed(propose: Propose) -> DetectionDataModule:
    """Data with proposals that are exactly the objects."""
    source = ShapesSource(train=4, val=2, test=3, size=64)
    files = ProposalFiles(str(propose(source)))
    return DetectionDataModule(source, LoaderSettings(workers=0), proposals=files)


# --- the loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_learns_and_is_validated_and_tested(
    system: str, settings: DetectorSettings, proposed: DetectionDataModule, trainer: MakeTrainer
) -> None:
    module = module_of(system, settings)
    before = {name: tensor.clone() for name, tensor in module.named_parameters()}
    run = trainer()
    run.fit(module, proposed)
    assert run.global_step == 2
    after = dict(module.named_parameters())
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {name for name in after if after[name].requires_grad}
    metrics = set(run.callback_metrics)
    stages = {"rpn": {"rpn"}, "faster_rcnn": {"rpn", "roi"}}.get(system, {"roi"})
    terms = {"rpn": ("objectness", "boxes"), "roi": ("classes", "boxes")}
    losses = {f"{split}/loss" for split in ("train", "val")} | {
        f"{split}/loss_{stage}_{term}"
        for split in ("train", "val")
        for stage in stages
        for term in terms[stage]
    }
    assert {name for name in metrics if "/loss" in name} == losses
    assert ("val/map" in metrics) == (system != "rpn")
    assert "val/recall_300" in metrics
    (tested,) = run.test(module, proposed, verbose=False)
    assert {"test/map", "test/voc07_map", "test/recall_300"} - set(tested) == (
        {"test/map", "test/voc07_map"} if system == "rpn" else set()
    )
    classes = set() if system == "rpn" else set(module.class_names)
    assert set(module.per_class["test"]) == classes
    predicted = run.predict(module, proposed)
    assert predicted is not None
    assert [len(found) for found in predicted] == [2, 1]


@pytest.mark.parametrize("system", ["faster_rcnn", "fast_rcnn"])
@pytest.mark.parametrize("val", [0, 2])
def test_one_class_is_trained_validated_tested_and_predicted(
    system: str, val: int, settings: DetectorSettings, trainer: MakeTrainer, propose: Propose
) -> None:
    source = ShapesSource(train=4, val=val, test=3, size=64, class_names=("circle",))
    files = None
    if system == "fast_rcnn":
        files = ProposalFiles(str(propose(replace(source, val=2))))
    data = DetectionDataModule(source, LoaderSettings(workers=0), proposals=files)
    module = module_of(system, replace(settings, class_names=("circle",)))
    run = trainer()
    run.fit(module, data)
    assert ("val/map" in run.callback_metrics) == (val > 0)
    (tested,) = run.test(module, data, verbose=False)
    assert {"test/map", "test/map_50", "test/voc07_map", "test/recall_300"} <= set(tested)
    assert set(module.per_class["test"]) == {"circle"}
    assert module.per_class["test"]["circle"]["map"] == pytest.approx(tested["test/map"])
    proposals = [BOXES] if files else None
    picture = torch.zeros(3, 50, 70, dtype=torch.uint8)
    assert module.predict([picture], proposals=proposals)[0].class_names == ("circle",)


def test_a_step_draws_the_same_sample_whenever_it_is_run(module: DetectionModule) -> None:
    images = ShapesDataset(2, size=64)
    batch = collate([images[0], images[1]], 32)
    module.eval()
    first, again = (
        module.detector.losses(batch.images, batch.targets, module._generator(5)) for _ in range(2)
    )
    assert torch.equal(first.total, again.total)
    assert len({module._generator(number).initial_seed() for number in range(16)}) == 16


@pytest.mark.parametrize("objects", [0, 1, 3])
def test_every_parameter_gets_a_gradient_from_any_number_of_objects(
    module: DetectionModule, objects: int
) -> None:
    batch = collate([ShapesDataset(1, size=64)[0]], 32)
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0]]).expand(1, objects, 4)
    no = torch.zeros(1, objects, dtype=torch.bool)
    targets = Targets(boxes, torch.ones(1, objects, dtype=torch.int64), no, no)
    module.detector.losses(batch.images, targets).total.backward()
    missing = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_recall_is_that_of_the_given_proposals(
    settings: DetectorSettings, proposed: DetectionDataModule, trainer: MakeTrainer
) -> None:
    limits = replace(settings.proposals, min_size=0.0)
    module = module_of("fast_rcnn", replace(settings, proposals=limits))
    (tested,) = trainer().test(module, proposed, verbose=False)
    assert tested["test/recall_300"] == pytest.approx(1.0)


def test_the_convolutions_of_sppnet_are_no_part_of_the_optimiser(
    settings: DetectorSettings,
) -> None:
    module = module_of("sppnet", settings)
    optimiser, _ = AdamWCosine()(module.detector, total_steps=10, images_per_step=2)
    learned = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert learned == {id(p) for p in module.detector.get_submodule("roi_heads").parameters()}


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(
    settings: DetectorSettings, trainer: MakeTrainer, tmp_path: Path
) -> None:
    def fresh() -> tuple[DetectionModule, DetectionDataModule]:
        pl.seed_everything(1, verbose=False)
        source = ShapesSource(train=6, val=2, test=2, size=64)
        return DetectionModule(settings), DetectionDataModule(source, LoaderSettings(workers=0))

    class StopAfterOne(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, *_: object) -> None:
            trainer.should_stop = True

    whole, data = fresh()
    trainer(max_epochs=2).fit(whole, data)
    first, data = fresh()
    stopped = trainer(StopAfterOne(), max_epochs=2)
    stopped.fit(first, data)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    second, data = fresh()
    trainer(max_epochs=2).fit(second, data, ckpt_path=tmp_path / "half.ckpt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


# --- schemes ----------------------------------------------------------------------------------


class DeltasGradient(pl.Callback):
    """Notes whether a step moves the RPN's head of the boxes."""

    moved = False

    def on_after_backward(self, _: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gradient = pl_module.get_parameter("detector.rpn.head.bbox_pred.weight").grad
        self.moved = gradient is not None and bool(gradient.any())


@pytest.mark.parametrize("kind", ["roi_align", "crop"])
@pytest.mark.parametrize("scheme", ["joint", "exact"])
def test_exact_training_moves_the_rpn_by_the_losses_of_the_roi_heads(
    kind: Literal["roi_align", "crop"],
    scheme: Scheme,
    settings: DetectorSettings,
    data: DetectionDataModule,
    trainer: MakeTrainer,
) -> None:
    torch.manual_seed(0)
    own = replace(settings.losses, rpn_box_weight=0.0)  # so that nothing else moves that head
    settings = replace(settings, pooling=PoolingSettings(kind=kind), losses=own)
    watch = DeltasGradient()
    trainer(watch, max_steps=1).fit(DetectionModule(settings, scheme=scheme), data)
    assert watch.moved == (scheme == "exact")


@pytest.mark.parametrize(
    ("pooling", "backbone", "message"),
    [
        (PoolingSettings(kind="roi_pool"), "resnet18", r"pooling\.kind='roi_pool'"),
        (PoolingSettings(kind="pyramid"), "resnet18", r"pooling\.kind='pyramid'"),
        (PoolingSettings(sampling_ratio=0), "resnet18", r"pooling\.sampling_ratio=0"),
        (PoolingSettings(), "resnet18_fpn", "pooling=crop"),
    ],
)
def test_exact_training_refuses_other_pooling_with_a_way_out(
    pooling: PoolingSettings, backbone: str, message: str, settings: DetectorSettings
) -> None:
    net = BackboneSettings(backbone, norm="batch", frozen_stages=0, weights=None)
    if pooling.kind == "pyramid":
        net = replace(net, box_head="two_mlp")
    with pytest.raises(SettingsError, match=message):
        DetectionModule(replace(settings, pooling=pooling, backbone=net), scheme="exact")


@pytest.mark.parametrize("system", ["fast_rcnn", "rpn"])
def test_exact_training_needs_faster_rcnn(system: str, settings: DetectorSettings) -> None:
    with pytest.raises(SettingsError, match=r"scheme='exact'.*model=faster_rcnn"):
        DetectionModule(settings, system=system, scheme="exact")
    assert DetectionModule(settings, system=system).scheme == "joint"


# --- copies -----------------------------------------------------------------------------------


@pytest.fixture
def particular(settings: DetectorSettings) -> DetectionModule:
    """A module of which nothing is the default."""
    module = DetectionModule(
        settings,
        recipe=PaperSGD(0.5),
        scheme="exact",
        seed=7,
        plus_one=True,
        weights="somewhere",
        speed=SpeedSettings(channels_last=False, winograd=False),
    )
    return module.double().eval()


def kept(module: DetectionModule) -> dict[str, object]:
    names = ("system", "recipe", "scheme", "seed", "plus_one", "speed", "training", "dtype")
    found: dict[str, object] = {name: getattr(module, name) for name in names}
    protocol = (module.test_scores.voc.plus_one, module.val_scores.voc.plus_one)
    return found | {"protocol": protocol, "precision": next(module.parameters()).dtype}


def test_a_copy_differs_in_what_is_given_alone(particular: DetectionModule) -> None:
    thresholds = replace(particular.settings.detections, score=0.3)
    changed = replace(particular.settings, detections=thresholds)
    copy = particular.with_settings(changed)
    assert copy.settings == changed
    assert kept(copy) == kept(particular)
    assert copy.weights == "somewhere"
    for name, tensor in particular.state_dict().items():
        assert torch.equal(copy.state_dict()[name], tensor)
        assert copy.state_dict()[name] is not tensor
    other = particular.with_settings(
        scheme="joint", seed=0, plus_one=False, weights="", recipe=AdamWCosine()
    )
    assert (other.scheme, other.seed, other.plus_one, other.weights) == ("joint", 0, False, "")
    assert other.test_scores.voc.plus_one is False
    assert other.recipe == AdamWCosine()
    assert not particular.training
    assert particular.train().with_settings().training


def test_the_systems_of_copies_are_kept(settings: DetectorSettings) -> None:
    for system in SYSTEMS:
        module = module_of(system, settings)
        assert type(module.with_settings().detector) is SYSTEMS[system]


def test_a_copy_with_another_state_takes_what_fits_and_refuses_the_rest(
    module: DetectionModule,
) -> None:
    state = dict(module.state_dict())
    name = "detector.rpn.head.conv.weight"
    state[name] = torch.ones_like(state[name])
    assert bool((module.with_settings(state=state).state_dict()[name] == 1).all())
    with pytest.raises(RuntimeError, match=r"no\.such\.tensor"):
        module.with_settings(state={"no.such.tensor": torch.zeros(1)})


def test_a_module_for_other_classes_keeps_all_but_the_outputs(
    particular: DetectionModule,
) -> None:
    measured = DeltaSettings(class_means=((0.1,) * 4,) * 3, class_stds=((0.2,) * 4,) * 3)
    particular = particular.with_settings(replace(particular.settings, deltas=measured))
    tuned = particular.for_classes(["cell", "crystal"])
    assert kept(tuned) == kept(particular)
    assert tuned.class_names == tuned.detector.settings.class_names == ("cell", "crystal")
    assert tuned.settings.deltas == DeltaSettings()  # the measured ones were of other classes
    assert tuned.weights == "detector of circle, square, triangle"
    before, after = particular.state_dict(), tuned.state_dict()
    outputs = {name for name in after if ".box_predictor." in name}
    assert all(torch.equal(after[name], before[name]) for name in after.keys() - outputs)
    assert after["detector.roi_heads.box_predictor.cls_score.weight"].shape[0] == 3
    assert particular.for_classes(["a"], recipe=AdamWCosine()).recipe == AdamWCosine()


# --- checkpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_checkpoint_rebuilds_the_module_without_anything_else(
    system: str, settings: DetectorSettings, tmp_path: Path, trainer: MakeTrainer
) -> None:
    module, run = module_of(system, settings), trainer()
    module.seed, module.weights = 5, "somewhere"
    run.strategy.connect(module)
    run.save_checkpoint(tmp_path / "trainer.ckpt", weights_only=True)
    save(module, tmp_path / "save.ckpt")
    for name in ("trainer.ckpt", "save.ckpt"):
        loaded = DetectionModule.load_from_checkpoint(tmp_path / name)
        assert type(loaded.detector) is SYSTEMS[system]
        assert (loaded.settings, loaded.seed, loaded.weights) == (module.settings, 5, "somewhere")
        for key, tensor in module.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor)


def test_a_loaded_module_predicts_and_trains_on(
    settings: DetectorSettings, data: DetectionDataModule, trainer: MakeTrainer, tmp_path: Path
) -> None:
    """The normalisation of the box targets is not folded into the weights."""
    means, stds = ((0.1, -0.2, 0.3, 0.0),) * 3, ((0.1, 0.2, 0.3, 0.4),) * 3
    deltas = DeltaSettings(class_means=means, class_stds=stds)
    torch.manual_seed(0)
    module = DetectionModule(replace(settings, deltas=deltas), scheme="exact").eval()
    save(module, tmp_path / "some.ckpt")
    loaded = rcnn.load(tmp_path / "some.ckpt")
    assert not loaded.training
    assert (loaded.settings, loaded.scheme) == (module.settings, "exact")
    picture = ShapesDataset(1, size=64)[0].image
    found, expected = loaded.predict(picture, score=0.0), module.predict(picture, score=0.0)
    assert len(found) > 0
    assert torch.equal(found.boxes, expected.boxes)
    batch = collate([ShapesDataset(1, size=64)[0]], 32)
    first, second = (
        one.detector.losses(batch.images, batch.targets, one._generator(0)).total
        for one in (loaded, module)
    )
    assert torch.equal(first, second)
    run = trainer()
    run.fit(loaded, data)
    assert run.global_step == 2


@pytest.mark.slow
def test_prediction_in_an_empty_folder_needs_no_hydra(
    module: DetectionModule, tmp_path: Path
) -> None:
    save(module, tmp_path / "some.ckpt")
    code = (
        "import sys, torch, rcnn\n"
        f"module = rcnn.load({str(tmp_path / 'some.ckpt')!r})\n"
        "found = module.predict(torch.zeros(3, 50, 70, dtype=torch.uint8))\n"
        "assert 'hydra' not in sys.modules and 'omegaconf' not in sys.modules\n"
        "print(type(found).__name__, module.class_names)\n"
    )
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    words = [sys.executable, "-c", code]
    answer = subprocess.run(words, cwd=empty, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("Detections ('circle', 'square', 'triangle')")


def test_what_cannot_be_loaded_is_a_checkpoint_error(tmp_path: Path) -> None:
    for load in (DetectionModule.load_from_checkpoint, rcnn.load):
        with pytest.raises(CheckpointError, match=r"none\.ckpt"):
            load(tmp_path / "none.ckpt")


# --- memory formats ---------------------------------------------------------------------------

PLAIN = SpeedSettings(channels_last=False, winograd=False, fold_norms=False)


def is_channels_last(module: DetectionModule) -> bool:
    """Whether all convolutions are; an error if some are and some are not."""
    weights = [one.weight for one in module.modules() if isinstance(one, nn.Conv2d)]
    # Of a 1x1 convolution or a single channel both formats look alike.
    large = [weight for weight in weights if min(weight.shape[1:]) > 1]
    (answer,) = {one.is_contiguous(memory_format=torch.channels_last) for one in large}
    return answer


@pytest.mark.parametrize("speed", [None, PLAIN])
def test_the_memory_format_is_the_loaders_and_copies_keep_it_bit_by_bit(
    speed: SpeedSettings | None, settings: DetectorSettings, tmp_path: Path
) -> None:
    paths = [tmp_path / "first.ckpt", tmp_path / "again.ckpt"]
    for written in (PLAIN, SpeedSettings()):
        first = DetectionModule(settings, speed=written)
        save(first, paths[0])
        loaded = DetectionModule.load_from_checkpoint(paths[0], speed=speed)
        for module in (loaded, loaded.with_settings(seed=3), loaded.for_classes(["cat"])):
            assert is_channels_last(module) == (speed is None)
        save(loaded, paths[1])
        records = [torch.load(path, weights_only=True)["rcnn"] for path in paths]
        assert records[0] == records[1]
        last = DetectionModule.load_from_checkpoint(paths[1], speed=written).state_dict()
        assert list(last) == list(first.state_dict())
        for name, tensor in first.state_dict().items():
            assert torch.equal(last[name], tensor), name


def test_a_run_is_resumed_in_another_memory_format(
    settings: DetectorSettings,
    data: DetectionDataModule,
    trainer: MakeTrainer,
    tmp_path: Path,
) -> None:
    def run(epochs: int, speed: SpeedSettings, checkpoint: Path | None = None) -> pl.Trainer:
        torch.manual_seed(0)
        module = DetectionModule(settings, recipe=PaperSGD(0.01), speed=speed)
        made = trainer(EMA(), max_epochs=epochs)
        made.fit(module, data, ckpt_path=checkpoint)
        return made

    run(1, PLAIN).save_checkpoint(tmp_path / "half.ckpt")
    ends = [run(2, speed, tmp_path / "half.ckpt") for speed in (PLAIN, SpeedSettings())]
    assert [end.global_step for end in ends] == [4, 4]
    plain, fast = (end.lightning_module for end in ends)
    assert isinstance(plain, DetectionModule)
    assert isinstance(fast, DetectionModule)
    assert [is_channels_last(module) for module in (plain, fast)] == [False, True]
    for name, tensor in plain.state_dict().items():
        found = fast.state_dict()[name]
        torch.testing.assert_close(found, tensor, rtol=1e-3, atol=1e-3, msg=name)


# --- two processes ----------------------------------------------------------------------------

STEP = '''
import pytorch_lightning as pl
import torch

from rcnn.data import Sample, collate
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.proposals import ProposalSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.structures import GroundTruth
from rcnn.training import DetectionModule


def minibatch(number, objects):
    """Return two noisy images with so many objects in each."""
    generator = torch.Generator().manual_seed(number)
    samples = []
    for image in range(2):
        corners = torch.rand(objects, 2, generator=generator) * 32
        sides = 16 + torch.rand(objects, 2, generator=generator) * 16
        no = torch.zeros(objects, dtype=torch.bool)
        ground_truth = GroundTruth(
            boxes=torch.cat([corners, corners + sides], dim=1),
            labels=torch.randint(1, 4, (objects,), generator=generator),
            difficult=no,
            crowd=no,
            areas=sides.prod(dim=1),
        )
        pixels = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        samples.append(Sample(pixels, ground_truth, f"{number}-{image}", original_size=(64, 64)))
    return collate(samples, multiple=16)


class Gradients(pl.Callback):
    def on_before_optimizer_step(self, trainer, module, optimizer):
        learned = [item for item in module.named_parameters() if item[1].requires_grad]
        self.kept = {name: weight.grad.clone() for name, weight in learned}


def step(minibatches, devices):
    """Return the gradients of one optimiser step, in which no sampler leaves anything out."""
    torch.manual_seed(0)
    module = DetectionModule(
        DetectorSettings(
            ("circle", "square", "triangle"),
            images=ImageSettings(shorter_side=64, longer_side=64),
            backbone=BackboneSettings("resnet18", norm="frozen", frozen_stages=0, weights=None),
            anchors=AnchorSettings(scales=(1.0, 2.0)),
            anchor_sampling=AnchorSampling(samples=256, skip_border_anchors=False),
            proposals=ProposalSettings(after_nms_train=20),
            roi_sampling=RoISampling(samples=512),
        )
    )
    gradients = Gradients()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        accumulate_grad_batches=len(minibatches),
        max_steps=1,
        callbacks=[gradients],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(minibatches, batch_size=None))
    return gradients.kept
'''


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of a weight's gradients, in parts of the largest gradient there."""
    assert found.keys() == expected.keys()
    distances = [
        (found[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-12)
        for name, gradient in expected.items()
    ]
    return float(torch.stack(distances).max())


@pytest.mark.slow
@pytest.mark.parametrize("objects", [(3, 1), (3, 0)])
def test_two_processes_have_the_gradients_of_one_with_both_minibatches(
    objects: tuple[int, int], two_processes: TwoProcesses, tmp_path: Path
) -> None:
    """Batch norms that learn would count per process: here they are frozen."""
    program = f"{STEP}\nobjects = {objects}\n" + (
        "warnings.filterwarnings('error', 'Grad strides do not match')\n"
        "torch.save(step([minibatch(rank, objects[rank])], 2), f'{folder}/{rank}.pt')\n"
    )
    assert [status for status, _ in two_processes(program)] == [0, 0]
    alone: dict[str, Any] = {}
    exec(STEP, alone)  # the same functions, in this process
    minibatch, step = alone["minibatch"], alone["step"]
    both = [minibatch(number, count) for number, count in enumerate(objects)]
    first, second, accumulated = step(both[:1], 1), step(both[1:], 1), step(both, 1)
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    for rank in range(2):
        assert furthest(torch.load(tmp_path / f"{rank}.pt"), mean) < 1e-5
    assert furthest(accumulated, mean) < 1e-5
    # Neither minibatch alone has these gradients, and every layer learned something.
    assert min(furthest(one, mean) for one in (first, second)) > 0.1
    assert all(gradient.abs().max() > 0 for gradient in mean.values())
