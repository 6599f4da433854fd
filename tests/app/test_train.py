"""train.py as people type it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from rcnn.data import ShapesSource
from rcnn.data.stored import ProposalWriter

REPOSITORY = Path(__file__).parents[2]
TINY = (
    "data.train=4",
    "data.val=2",
    "data.test=2",
    "data.size=64",
    "images.shorter_side=64",
    "images.longer_side=64",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "loader.workers=0",
)


def train(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run train.py with its outputs in ``folder``."""
    options = [word for word in words if word == "-m"]
    command = [sys.executable, str(REPOSITORY / "train.py"), *options, *TINY]
    command += [word for word in words if word != "-m"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def runs(folder: Path) -> list[Path]:
    """Return the folders of the runs, each known by its resolved config."""
    return sorted(path.parent for path in folder.rglob("config.yaml"))


@pytest.mark.slow
def test_a_run_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    answer = train(folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    (run,) = runs(tmp_path)
    assert run.parent == tmp_path / "outputs" / "shapes"
    assert str(run) in answer.stdout.replace("\n", "")
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["weights"] == "random"
    assert {"val/map", "test/map", "test/voc07_map", "test/recall_100"} <= set(metrics["metrics"])
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert "train/loss_rpn_boxes" in (run / "metrics.csv").read_text()
    assert list((run / "tensorboard").glob("events*"))
    assert list((run / "pictures" / "detections").glob("*.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.slow
def test_a_checkpoint_can_be_tested_and_resumed(tmp_path: Path) -> None:
    assert train(folder=tmp_path).returncode == 0
    (first,) = runs(tmp_path)
    last = first / "checkpoints" / "last.ckpt"
    tested = train("task=test", f"ckpt_path={last}", "name=tested", folder=tmp_path)
    assert tested.returncode == 0, tested.stderr
    (run,) = runs(tmp_path / "outputs" / "tested")
    before = json.loads((first / "metrics.json").read_text())["metrics"]
    again = json.loads((run / "metrics.json").read_text())["metrics"]
    assert again["test/map"] == pytest.approx(before["test/map"], nan_ok=True)
    resumed = train(f"ckpt_path={last}", "trainer.max_epochs=2", "name=on", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    (on,) = runs(tmp_path / "outputs" / "on")
    assert json.loads((on / "metrics.json").read_text())["steps"] == 4


@pytest.mark.slow
def test_a_sweep_over_two_processes_makes_one_folder_a_job(tmp_path: Path) -> None:
    answer = train("-m", "anchors=paper,small", "trainer.devices=2", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    jobs = runs(tmp_path)
    assert [job.name for job in jobs] == ["0", "1"]
    assert len({job.parent for job in jobs}) == 1
    for job in jobs:
        metrics = json.loads((job / "metrics.json").read_text())
        assert metrics["steps"] == 1
        writers = {path.name.split(".")[-2] for path in (job / "tensorboard").glob("events*")}
        assert len(writers) == 1  # the number of the process that wrote a file
    assert {path.name for path in jobs[0].parent.iterdir()} <= {"0", "1", "multirun.yaml"}
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("trainer.max_epoch=9", "trainer.max_epochs"),
        ("+trainer.max_epoch=9", "trainer.max_epochs"),
        ("tresholds.rpn_positive_iou=0.6", "thresholds.rpn_positive_iou"),
        ("backbone=vgg61", "vgg16"),
    ],
)
def test_a_typo_is_told_in_a_few_lines_before_anything_is_written(
    typo: str, nearest: str, tmp_path: Path
) -> None:
    answer = train(typo, folder=tmp_path)
    assert answer.returncode == 2
    assert nearest in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not runs(tmp_path)


def propose(folder: Path) -> None:
    """Write proposals of all splits of the pictures of ``TINY``: the objects, moved a little."""
    source = ShapesSource(train=4, val=2, test=2, size=64)
    folder.mkdir()
    for split in ("train", "val", "test"):
        dataset = source.dataset(split)
        with ProposalWriter(folder / f"{split}.proposals", dataset, "by hand") as writer:
            for index, image_id in enumerate(dataset.image_ids):
                objects = dataset.ground_truth(index).boxes
                near = (objects + torch.tensor([2.0, -3.0, 4.0, 1.0])).clamp(0, 64)
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
def test_every_system_is_trained_and_tested(system: str, more: list[str], tmp_path: Path) -> None:
    propose(tmp_path / "proposals")
    answer = train(f"model={system}", "proposals.folder=proposals", *more, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    (run,) = runs(tmp_path)
    record = json.loads((run / "metrics.json").read_text())
    assert record["steps"] == 2
    finds = system != "rpn"
    assert ("test/map" in record["metrics"]) == finds
    assert "test/recall_100" in record["metrics"]
    assert record["monitored"] is not None
    columns = (run / "metrics.csv").read_text().splitlines()[0]
    assert ("train/loss_roi_classes" in columns) == finds
    assert ("train/loss_rpn_objectness" in columns) == (not finds)
    assert "Warning" not in answer.stderr
    tested = train(
        *(f"model={system}", "proposals.folder=proposals", *more, "name=again", "task=test"),
        f"ckpt_path={run / 'checkpoints' / 'best.ckpt'}",
        folder=tmp_path,
    )
    assert tested.returncode == 0, tested.stderr
    (again,) = runs(tmp_path / "outputs" / "again")
    metrics = json.loads((again / "metrics.json").read_text())["metrics"]
    assert metrics["test/recall_100"] == pytest.approx(record["metrics"]["test/recall_100"])


@pytest.mark.slow
def test_one_checkpoint_is_tested_with_other_limits_and_nothing_else(tmp_path: Path) -> None:
    answer = train("thresholds.roi_samples=24", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    (run,) = runs(tmp_path)
    test = ("task=test", f"ckpt_path={run / 'checkpoints' / 'best.ckpt'}")
    few = train(*test, "name=few", "thresholds.proposal_after_nms_test=3", folder=tmp_path)
    assert few.returncode == 0, few.stderr
    (tested,) = runs(tmp_path / "outputs" / "few")
    record = json.loads((tested / "metrics.json").read_text())
    assert record["notes"] == [
        "Tested with thresholds.proposal_after_nms_test=3; the checkpoint has 100."
    ]
    # The config of the test is that of the detector under test.
    assert yaml.safe_load((tested / "config.yaml").read_text())["thresholds"]["roi_samples"] == 24
    before = json.loads((run / "metrics.json").read_text())["metrics"]
    assert record["metrics"]["test/recall_100"] <= before["test/recall_100"]

    other = train(*test, "name=other", "thresholds.roi_samples=32", folder=tmp_path)
    assert other.returncode == 2
    assert "thresholds.roi_samples=32 (the checkpoint has 24)" in other.stderr
    assert not runs(tmp_path / "outputs" / "other")


@pytest.mark.slow
def test_a_checkpoint_is_tested_with_truncated_layers(tmp_path: Path) -> None:
    answer = train("backbone.box_head=two_mlp", "backbone.hidden=8", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    (run,) = runs(tmp_path)
    test = ("task=test", f"ckpt_path={run / 'checkpoints' / 'best.ckpt'}")
    tested = train(*test, "name=thin", "backbone.ranks=[2,0]", folder=tmp_path)
    assert tested.returncode == 0, tested.stderr
    (again,) = runs(tmp_path / "outputs" / "thin")
    record = json.loads((again / "metrics.json").read_text())
    assert record["notes"] == ["Tested with backbone.ranks=[2,0]; the checkpoint has null."]
    assert "test/map" in record["metrics"]
    assert yaml.safe_load((again / "config.yaml").read_text())["backbone"]["ranks"] == [2, 0]


@pytest.mark.slow
def test_a_system_without_its_proposals_is_told_so_before_anything_is_written(
    tmp_path: Path,
) -> None:
    answer = train("model=fast_rcnn", folder=tmp_path)
    assert answer.returncode == 2
    assert "proposals.folder" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not runs(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["alternating", "unshared", "stage_wise"])
def test_a_training_in_steps_over_two_processes_ends_in_one_checkpoint(
    scheme: str, tmp_path: Path
) -> None:
    words = (f"scheme={scheme}", "trainer.devices=2", "trainer.max_epochs=2")
    answer = train(*words, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    (run,) = runs(tmp_path)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    results = json.loads((run / "metrics.json").read_text())
    assert "test/map_50" in results["metrics"]
    steps = sorted(path.name for path in (run / "stages").iterdir())
    stored = {path.name.split("-")[0] for path in (run.parent / "stages").iterdir()}
    assert set(steps) <= stored
    assert len(steps) == (4 if scheme == "alternating" else 2)
    again = train(*words, "name=shapes", folder=tmp_path)
    assert "found as" in again.stdout + again.stderr
    assert len(runs(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_sweep_can_run_its_jobs_beside_each_other(launcher: str, tmp_path: Path) -> None:
    words = ("seed=0,1", f"hydra/launcher={launcher}", "loader.workers=1")
    answer = train("-m", *words, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    jobs = runs(tmp_path)
    assert [job.name for job in jobs] == ["0", "1"]
    results = [json.loads((job / "metrics.json").read_text()) for job in jobs]
    assert results[0]["metrics"]["train/loss"] != results[1]["metrics"]["train/loss"]
