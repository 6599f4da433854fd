"""The LightningModule: losses, checkpoints, prediction, reuse."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from rcnn.data import ShapesDataset, ShapesSource, collate
from rcnn.inference.checkpoint import CheckpointError
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError
from rcnn.structures import Detections
from rcnn.training import DetectionDataModule, DetectionModule, LoaderSettings

MakeTrainer = Callable[..., pl.Trainer]


@pytest.fixture
def checkpoint(
    module: DetectionModule, data: DetectionDataModule, trainer: MakeTrainer, tmp_path: Path
) -> Path:
    """A checkpoint of a detector that was trained for two steps."""
    run = trainer()
    run.fit(module, data)
    path = tmp_path / "trained.ckpt"
    run.save_checkpoint(path)
    return path


def test_a_step_draws_the_same_sample_whenever_it_is_run(module: DetectionModule) -> None:
    images = ShapesDataset(2, size=64)
    batch = collate([images[0], images[1]], 32)
    module.eval()
    first, again = (
        module.detector.losses(batch.images, batch.targets, module._generator(5)) for _ in range(2)
    )
    torch.testing.assert_close(first.total, again.total, rtol=0, atol=0)
    assert len({module._generator(number).initial_seed() for number in range(16)}) == 16


def test_a_checkpoint_rebuilds_the_module_without_anything_else(
    checkpoint: Path, module: DetectionModule
) -> None:
    loaded = DetectionModule.load_from_checkpoint(checkpoint)
    assert loaded.class_names == ("circle", "square", "triangle")
    assert loaded.settings == module.settings
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_checkpoint_holds_nothing_that_could_be_executed(checkpoint: Path) -> None:
    assert torch.load(checkpoint, weights_only=True)["rcnn"]["system"] == "faster_rcnn"


@pytest.mark.slow
def test_prediction_in_an_empty_folder_needs_no_hydra(checkpoint: Path, tmp_path: Path) -> None:
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    code = (
        "import sys, torch, rcnn\n"
        f"module = rcnn.DetectionModule.load_from_checkpoint({str(checkpoint)!r})\n"
        "found = module.predict(torch.zeros(3, 50, 70, dtype=torch.uint8))\n"
        "assert 'hydra' not in sys.modules and 'omegaconf' not in sys.modules\n"
        "print(type(found).__name__, module.class_names)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, capture_output=True, text=True, check=True
    )
    assert answer.stdout.startswith("Detections ('circle', 'square', 'triangle')")


def test_importing_the_package_is_light() -> None:
    code = "import sys, rcnn; assert 'torch' not in sys.modules; rcnn.ops"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_predict_takes_paths_pictures_arrays_tensors_and_lists(
    module: DetectionModule, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    one = module.predict(path)
    assert isinstance(one, Detections)
    several = module.predict([str(path), Image.fromarray(pixels), pixels, tensor])
    assert isinstance(several, list)
    for found in several:
        torch.testing.assert_close(found.boxes, one.boxes, rtol=0, atol=1e-3)
    assert (one.boxes[:, 2] <= 60).all()
    assert (one.boxes[:, 3] <= 40).all()


def test_predict_leaves_the_mode_of_the_module_as_it_was(module: DetectionModule) -> None:
    module.train()
    module.predict(torch.zeros(3, 40, 40, dtype=torch.uint8))
    assert module.training


def test_predicting_no_picture_gives_no_detections(module: DetectionModule) -> None:
    assert module.predict([]) == []


def test_another_data_module_can_be_tested(
    checkpoint: Path, data: DetectionDataModule, trainer: MakeTrainer
) -> None:
    module = DetectionModule.load_from_checkpoint(checkpoint)
    (metrics,) = trainer().test(module, data, verbose=False)
    assert {"test/map", "test/map_50", "test/voc07_map", "test/recall_300"} <= set(metrics)
    assert set(module.per_class["test"]) == {"circle", "square", "triangle"}


def test_fine_tuning_on_other_classes_keeps_all_layers_but_the_outputs(
    checkpoint: Path,
) -> None:
    module = DetectionModule.load_from_checkpoint(checkpoint)
    tuned = module.for_classes(["cell", "crystal"])
    assert tuned.class_names == ("cell", "crystal")
    assert DetectionModule(module.settings, scheme="exact").for_classes(["a"]).scheme == "exact"
    before, after = module.state_dict(), tuned.state_dict()
    same = {name for name in after if torch.equal(after[name], before[name])}
    outputs = {name for name in after if ".roi_heads.box_predictor." in name}
    zeros = {name for name in outputs if name.endswith(".bias")}
    assert outputs - zeros == set(after) - same - zeros
    assert after["detector.roi_heads.box_predictor.cls_score.weight"].shape[0] == 3
    assert any(name.startswith("detector.rpn.") for name in same)


def test_data_of_other_classes_is_refused_with_a_way_out(
    module: DetectionModule, data: DetectionDataModule, trainer: MakeTrainer
) -> None:
    other = module.for_classes(["cell"])
    with pytest.raises(ValueError, match=r"classes circle, square, triangle.*for_classes"):
        trainer().fit(other, data)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_told_as_such(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged\.ckpt: cannot be read"):
        DetectionModule.load_from_checkpoint(path)


def test_a_missing_or_foreign_checkpoint_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        DetectionModule.load_from_checkpoint(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match="is not a checkpoint of rcnn"):
        DetectionModule.load_from_checkpoint(tmp_path / "foreign.ckpt")


def test_an_unknown_system_is_an_error_that_names_the_known(settings: DetectorSettings) -> None:
    with pytest.raises(SettingsError, match="faster_rcnn"):
        DetectionModule(settings, system="faster_rcn")


def test_every_parameter_gets_a_gradient_even_from_an_image_without_objects(
    module: DetectionModule,
) -> None:
    from rcnn.structures import Targets

    image = ShapesDataset(1, size=64)[0]
    batch = collate([image], 32)
    empty = Targets(
        torch.zeros(1, 0, 4),
        torch.zeros(1, 0, dtype=torch.int64),
        torch.zeros(1, 0, dtype=torch.bool),
        torch.zeros(1, 0, dtype=torch.bool),
    )
    module.detector.losses(batch.images, empty).total.backward()
    missing = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(
    settings: DetectorSettings, trainer: MakeTrainer, tmp_path: Path
) -> None:
    def fresh() -> tuple[DetectionModule, DetectionDataModule]:
        pl.seed_everything(1, verbose=False)
        source = ShapesSource(train=6, val=2, test=2, size=64)
        return DetectionModule(settings), DetectionDataModule(source, LoaderSettings(workers=0))

    whole, data = fresh()
    trainer(epochs=2).fit(whole, data)

    class StopAfterOne(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, *_: object) -> None:
            trainer.should_stop = True

    first, data = fresh()
    stopped = trainer(epochs=2, callbacks=[StopAfterOne()])
    stopped.fit(first, data)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    second, data = fresh()
    trainer(epochs=2).fit(second, data, ckpt_path=tmp_path / "half.ckpt")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0, atol=0)
