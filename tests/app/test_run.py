"""The objects of a run, its table of results, and train.py as people type it."""

import io
import json
import math
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.vgg import cfgs, make_layers

from rcnn.app import build
from rcnn.app.build import build_data, build_module, build_trainer
from rcnn.app.config import parse
from rcnn.app.record import Results, print_results
from rcnn.data import ShapesSource
from rcnn.data.proposal_writer import ProposalWriter
from rcnn.model.build import SYSTEMS
from rcnn.training import DetectionModule
from rcnn.training.callbacks import Progress

Compose = Callable[..., dict[str, Any]]
Train = Callable[..., subprocess.CompletedProcess[str]]

# --- the objects of a run -----------------------------------------------------------------------


class VGGFeatures(nn.Module):
    """Torchvision's VGG-16 without its classifier, which takes a second to make."""

    def __init__(self) -> None:
        super().__init__()
        self.features = make_layers(cfgs["D"])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg16": VGGFeatures,
    "resnet18": resnet18,
    "resnet18_fpn": resnet18,
}
PREFIXES = {"vgg16": "backbone.", "resnet18": "backbone.", "resnet18_fpn": "backbone.body."}
"""How the names of the network's layers begin in a detector."""


def built(composed: Compose, *overrides: str) -> DetectionModule:
    small = ("data.train=2", "data.val=2", "data.test=2", "backbone.hidden=8")
    config = parse(composed(*overrides, *small))
    source = build_data(config)
    source.proposals = None  # only the names of the classes are asked for
    return build_module(config, source)


@pytest.mark.parametrize("backbone", sorted(NETWORKS))
@pytest.mark.parametrize("system", SYSTEMS)
def test_torchvisions_weights_reach_every_system(
    system: str, backbone: str, composed: Compose, tmp_path: Path
) -> None:
    if (system, backbone) == ("rcnn", "resnet18_fpn"):
        pytest.skip("R-CNN takes no pyramid")
    path, state = tmp_path / "network.pth", NETWORKS[backbone]().state_dict()
    torch.save(state, path)
    module = built(
        composed,
        f"model={system}",
        f"backbone={backbone}",
        f"backbone.weights={path}",
        "proposals.folder=/somewhere",
    )
    ours, prefix = module.detector.state_dict(), PREFIXES[backbone]
    covered = {name: name.removeprefix(prefix) for name in ours if name.startswith(prefix)}
    assert covered
    heads = [name for name in ours if name.startswith("roi_heads.box_head.layer4.")]
    has_layer4 = backbone == "resnet18" and system in ("rcnn", "fast_rcnn", "faster_rcnn")
    assert bool(heads) == has_layer4
    covered |= {name: name.removeprefix("roi_heads.box_head.") for name in heads}
    for name, theirs in covered.items():
        assert torch.equal(ours[name], state[theirs]), name
    assert module.weights == str(path)
    # On top of loaded weights the first stages are frozen, and of SPP-net all.
    frozen = [p for p in module.detector.backbone.parameters() if not p.requires_grad]
    assert frozen
    assert (len(frozen) == len(list(module.detector.backbone.parameters()))) == (system == "sppnet")


def test_the_speed_of_the_config_reaches_module_and_process(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = built(composed, "speed.channels_last=false", "speed.compile=true")
    assert module.speed.compile
    assert module.get_parameter("detector.backbone.conv1.weight").is_contiguous()
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    monkeypatch.setattr(build, "keep_freed_memory", lambda: asked.append("memory"))
    build_trainer(parse(composed("speed.matmul=high", "logger=none", "trainer=cpu")))
    assert asked == ["high", "memory"]
    build_trainer(parse(composed("speed.keep_memory=false", "logger=none", "trainer=cpu")))
    assert asked == ["high", "memory", "highest"]


def test_what_is_switched_off_takes_its_callback_along(composed: Compose) -> None:
    off = ("trainer.enable_progress_bar=false", "logger=none")
    trainer = build_trainer(parse(composed("trainer=cpu", *off)))
    kinds = {type(callback).__name__ for callback in trainer.callbacks}  # type: ignore[attr-defined]
    assert kinds.isdisjoint({"Progress", "LearningRateMonitor"})
    assert "Throughput" in kinds


def test_a_run_without_the_progress_callback_has_no_bar_at_all(composed: Compose) -> None:
    trainer = build_trainer(parse(composed("trainer=cpu", "callbacks.progress=null")))
    assert trainer.progress_bar_callback is None
    with_bar = build_trainer(parse(composed("trainer=cpu")))
    assert type(with_bar.progress_bar_callback) is Progress


# --- the table at the end -----------------------------------------------------------------------


def printed(names: Sequence[str], folder: str = "outputs/x") -> str:
    figures = {"map": 0.25, "map_50": 0.5, "voc_ap": 0.75, "voc07_ap": math.nan}
    results = Results(
        metrics={"test/map": 0.125, "test/map_50": 0.5, "test/recall_100": 0.375},
        per_class={"test": dict.fromkeys(names, figures)},
        weights="random",
        notes=["random weights [of course]"],
    )
    console = Console(file=io.StringIO(), width=80)
    print_results(results, folder, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_a_row_for_all_and_one_for_each_class() -> None:
    lines = printed(["cat", "dog"]).splitlines()
    (overall,) = (line for line in lines if line.startswith("│ all"))
    assert "0.125" in overall
    assert [line.split()[1] for line in lines if "0.750" in line] == ["cat", "dog"]
    assert "0.375, -, -" in "\n".join(lines)  # what was not measured is a dash


def test_eighty_classes_fit_a_terminal() -> None:
    assert max(map(len, printed([f"class {k}" for k in range(80)]).splitlines())) <= 80


@pytest.mark.parametrize("name", ["bolt[m8]", "[/red]", "[bold]nut", "a:smile:", "\\[x]"])
def test_what_users_write_is_never_markup(name: str) -> None:
    text = printed([name], folder=f"outputs/{name}")
    assert f"│ {name} " in text
    assert "random weights [of course]" in text
    assert text.rstrip().endswith(f"Run folder: outputs/{name}")


# --- train.py -----------------------------------------------------------------------------------

TINY = (
    *("data.train=4", "data.val=2", "data.test=2", "data.size=64"),
    *("images.shorter_side=64", "images.longer_side=64", "trainer.log_every_n_steps=1"),
)


def runs(folder: Path) -> list[Path]:
    """Return the folders of the runs, each known by its resolved config."""
    return sorted(path.parent for path in folder.rglob("config.yaml"))


def record_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text()))


@pytest.mark.slow
def test_a_run_leaves_everything_in_its_folder_and_is_tested_and_resumed(
    train: Train, tmp_path: Path
) -> None:
    answer = train(*TINY, "thresholds.roi_samples=24")
    assert answer.returncode == 0, answer.stderr
    (first,) = runs(tmp_path)
    assert first.parent == tmp_path / "outputs" / "shapes"
    assert str(first) in answer.stdout.replace("\n", "")
    assert {path.name for path in (first / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    record = record_of(first)
    assert record["weights"] == "random"
    assert {"val/map", "test/map", "test/voc07_map", "test/recall_100"} <= set(record["metrics"])
    assert json.loads((first / "environment.json").read_text())["packages"]["torch"]
    assert "train/loss_rpn_boxes" in (first / "metrics.csv").read_text()
    assert list((first / "tensorboard").glob("events*"))
    assert list((first / "pictures" / "detections").glob("*.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]

    best = f"ckpt_path={first / 'checkpoints' / 'best.ckpt'}"
    few = train(*TINY, "task=test", best, "name=few", "thresholds.proposal_after_nms_test=3")
    assert few.returncode == 0, few.stderr
    (tested,) = runs(tmp_path / "outputs" / "few")
    (note,) = record_of(tested)["notes"]
    assert "thresholds.proposal_after_nms_test=3; the checkpoint has 100" in note
    # The config of the test is that of the detector under test.
    assert yaml.safe_load((tested / "config.yaml").read_text())["thresholds"]["roi_samples"] == 24
    recall = record["metrics"]["test/recall_100"]
    assert record_of(tested)["metrics"]["test/recall_100"] <= recall

    last = f"ckpt_path={first / 'checkpoints' / 'last.ckpt'}"
    words = (*TINY, last, "thresholds.roi_samples=24", "trainer.max_epochs=2", "name=on")
    resumed = train(*words)
    assert resumed.returncode == 0, resumed.stderr
    (on,) = runs(tmp_path / "outputs" / "on")
    assert record_of(on)["steps"] == 4


@pytest.mark.slow
def test_a_sweep_over_two_processes_makes_one_folder_a_job(train: Train, tmp_path: Path) -> None:
    answer = train("-m", *TINY, "anchors=paper,small", "trainer.devices=2")
    assert answer.returncode == 0, answer.stderr
    jobs = runs(tmp_path)
    assert [job.name for job in jobs] == ["0", "1"]
    assert len({job.parent for job in jobs}) == 1
    for job in jobs:
        assert record_of(job)["steps"] == 1
        writers = {path.name.split(".")[-2] for path in (job / "tensorboard").glob("events*")}
        assert len(writers) == 1  # the number of the process that wrote a file
    assert {path.name for path in jobs[0].parent.iterdir()} <= {"0", "1", "multirun.yaml"}
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def propose(folder: Path) -> None:
    """Write proposals of all splits of the pictures of ``TINY``: the objects, moved a little."""
    source = ShapesSource(train=4, val=2, test=2, size=64)
    folder.mkdir()
    for split in ("train", "val", "test"):
        dataset = source.dataset(split)
        with ProposalWriter(folder / f"{split}.safetensors", dataset, "by hand") as writer:
            for index, image_id in enumerate(dataset.image_ids):
                objects = dataset.ground_truth(index).boxes
                near: Tensor = (objects + torch.tensor([2.0, -3.0, 4.0, 1.0])).clamp(0, 64)
                writer.add(image_id, torch.cat([near, torch.tensor([[0.0, 0.0, 64.0, 64.0]])]))
            writer.finish()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "more"),
    [
        ("rcnn", ["model.warp.size=112", "model.warp.context=8"]),
        ("sppnet", ["backbone.hidden=32"]),
        ("fast_rcnn", []),
        ("rpn", []),
    ],
)
def test_every_system_is_trained_and_tested(
    system: str, more: list[str], train: Train, tmp_path: Path
) -> None:
    propose(tmp_path / "proposals")
    words = (*TINY, f"model={system}", "proposals.folder=proposals", *more)
    answer = train(*words)
    assert answer.returncode == 0, answer.stderr
    (first,) = runs(tmp_path)
    record = record_of(first)
    assert record["steps"] == 2
    # The test of the best checkpoint does not add that checkpoint's time.
    last = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)
    clock = last["callbacks"]["Timer"]["time_elapsed"]["train"]
    assert record["seconds"] == pytest.approx(clock, rel=0.5)
    finds = system != "rpn"
    assert ("test/map" in record["metrics"]) == finds
    assert record["monitored"] is not None
    columns = (first / "metrics.csv").read_text().splitlines()[0]
    assert ("train/loss_roi_classes" in columns) == finds
    assert ("train/loss_rpn_objectness" in columns) == (not finds)
    assert "Warning" not in answer.stderr
    best = f"ckpt_path={first / 'checkpoints' / 'best.ckpt'}"
    tested = train(*words, "name=again", "task=test", best)
    assert tested.returncode == 0, tested.stderr
    (again,) = runs(tmp_path / "outputs" / "again")
    recall = record_of(again)["metrics"]["test/recall_100"]
    assert recall == pytest.approx(record["metrics"]["test/recall_100"])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["alternating", "unshared", "stage_wise"])
def test_a_training_in_phases_over_two_processes_ends_in_one_checkpoint(
    scheme: str, train: Train, tmp_path: Path
) -> None:
    words = (*TINY, f"scheme={scheme}", "trainer.devices=2", "trainer.max_epochs=2")
    answer = train(*words)
    assert answer.returncode == 0, answer.stderr
    (first,) = runs(tmp_path)
    assert [path.name for path in (first / "checkpoints").iterdir()] == ["last.ckpt"]
    assert "test/map_50" in record_of(first)["metrics"]
    phases = sorted(path.name for path in (first / "phases").iterdir())
    stored = {path.name.split("-")[0] for path in (first.parent / "phases").iterdir()}
    assert set(phases) <= stored
    assert len(phases) == (4 if scheme == "alternating" else 2)
    again = train(*words, "name=shapes")
    assert "found as" in again.stdout + again.stderr
    assert len(runs(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_sweep_can_run_its_jobs_beside_each_other(
    launcher: str, train: Train, tmp_path: Path
) -> None:
    answer = train("-m", *TINY, "seed=0,1", f"hydra/launcher={launcher}", "loader.workers=1")
    assert answer.returncode == 0, answer.stderr
    jobs = runs(tmp_path)
    assert [job.name for job in jobs] == ["0", "1"]
    losses = [record_of(job)["metrics"]["train/loss"] for job in jobs]
    assert losses[0] != losses[1]


# --- one class ----------------------------------------------------------------------------------

OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
    "<ymax>{y1}</ymax></bndbox></object>"
)


def voc(folder: Path, names: Sequence[str] = ("bolt[m8]",)) -> Path:
    """Write a folder in VOC layout: four images to train on, two to test, an object of each."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    ids = [f"image{k}" for k in range(6)]
    for k, image_id in enumerate(ids):
        image = Image.new("RGB", (64, 64), (30 * k, 90, 160))
        image.paste((250, 250, 250), (8 + k, 10, 40, 44))
        image.save(folder / "JPEGImages" / f"{image_id}.jpg")
        objects = "".join(
            OBJECT.format(name=name, x0=8 + k, y0=10 + n, x1=40, y1=44)
            for n, name in enumerate(names)
        )
        size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
        text = f"<annotation><filename>{image_id}.jpg</filename>{size}{objects}</annotation>"
        (folder / "Annotations" / f"{image_id}.xml").write_text(text)
    (folder / "ImageSets/Main/train.txt").write_text("\n".join(ids[:4]))
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(ids[4:]))
    return folder


VOC = (
    *("data=voc", "data.root=voc", "data.val=null", "monitor=null", "backbone.weights=null"),
    *("images.shorter_side=64", "images.longer_side=64", "callbacks.checkpoint.monitor=null"),
    *("callbacks.checkpoint.filename=best", "callbacks.checkpoint.save_last=false"),
)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["joint", "exact", "alternating", "stage_wise"])
def test_one_class_is_enough_for_a_training_and_a_test(
    scheme: str, train: Train, tmp_path: Path
) -> None:
    voc(tmp_path / "voc")
    answer = train(*VOC, f"scheme={scheme}")
    assert answer.returncode == 0, answer.stderr
    assert "bolt[m8]" in answer.stdout
    (first,) = runs(tmp_path)
    record = record_of(first)
    (checkpoint,) = (first / "checkpoints").glob("*.ckpt")
    assert list(record["per_class"]["test"]) == ["bolt[m8]"]
    own = record["per_class"]["test"]["bolt[m8]"]
    assert own["map"] == pytest.approx(record["metrics"]["test/map"], abs=1e-6)
    tested = train(*VOC, "task=test", f"ckpt_path={checkpoint}", "name=again")
    assert tested.returncode == 0, tested.stderr
    (again,) = runs(tmp_path / "outputs" / "again")
    assert record_of(again)["metrics"]["test/map"] == pytest.approx(record["metrics"]["test/map"])


# --- mistakes -----------------------------------------------------------------------------------


def told(answer: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a mistake ends in."""
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    (line,) = (line for line in answer.stderr.splitlines() if line.startswith("Error: "))
    assert answer.stderr.rstrip().endswith(line)
    return line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("trainer.max_epoch=9",), "trainer.max_epochs"),
        (("+trainer.max_epoch=9",), "trainer.max_epochs"),
        (("backbone=vgg61",), "vgg16"),
        (("seed=many",), "seed='many'"),
        (("data=voc", "data.root=nowhere"), "nowhere"),
        (("data=voc", "data.root=voc", "data.train=trian"), "trian"),
        (("task=test", "ckpt_path=nowhere.ckpt"), "nowhere.ckpt"),
        (("model=fast_rcnn",), "proposals.folder"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    words: tuple[str, ...], part: str, train: Train, tmp_path: Path
) -> None:
    voc(tmp_path / "voc")
    assert part in told(train(*words))
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_told_with_both_sides(
    train: Train, tmp_path: Path
) -> None:
    voc(tmp_path / "voc")
    (tmp_path / "other").mkdir()
    voc(tmp_path / "other" / "voc", ("nut", "gear"))
    answer = train(*VOC)
    assert answer.returncode == 0, answer.stderr
    (checkpoint,) = tmp_path.rglob("best.ckpt")
    own, other = f"ckpt_path={checkpoint}", "data.root=other/voc"
    for words in ((own, other), ("task=test", own, other)):
        line = told(train(*VOC, *words))
        assert "bolt[m8]" in line
        assert "gear" in line
    line = told(train(*VOC, own, "backbone=resnet34", "backbone.weights=null"))
    assert "resnet18" in line
    assert "resnet34" in line
    line = told(train(*VOC, own, other, "trainer.devices=2"))
    assert "rank" in line
    assert "gear" in line
