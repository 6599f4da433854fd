"""The table of the runs of a folder: its lines, its figures and what is said of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcnn.report import ReportError, find_runs
from rcnn.report.tables import Line, Report, compare

Job = Callable[..., Path]


def report(*folders: Path, tags: tuple[str, ...] = ()) -> Report:
    return compare(find_runs(folders), tags)


def line(found: Report, *cells: str) -> Line:
    (one,) = (each for each in found.lines if each.cells == cells)
    return one


def figure(found: Report, title: str, *cells: str) -> Any:
    """Return the figures of one line and measure."""
    return found.figures.loc[(found.lines.index(line(found, *cells)), title)]


def has(found: Report, *words: str) -> bool:
    """Return whether one warning has all the words."""
    return any(all(word in warning for word in words) for warning in found.warnings)


def test_seeds_of_a_row_are_averaged(sweep: Path, job: Job) -> None:
    for seed, value in enumerate((0.60, 0.62, 0.64)):
        job(1, value, seed=seed)
    job(10, 0.7)
    found = report(sweep)
    assert [each.cells for each in found.lines] == [("light",), ("medium",), ("heavy",)]
    light = figure(found, "mAP", "light")
    assert (light["paper"], light["n"]) == (60.0, 3)
    assert light["ours"] == pytest.approx(62.0)
    assert light["difference"] == pytest.approx(2.0)
    assert light["std"] == pytest.approx(2.0)
    assert figure(found, "training", "light")["ours"] == pytest.approx(0.5)  # hours
    medium, heavy = figure(found, "mAP", "medium"), figure(found, "mAP", "heavy")
    assert (medium["ours"], medium["n"], math.isnan(medium["std"])) == (70.0, 1, True)
    assert (math.isnan(heavy["ours"]), heavy["n"], heavy["values"]) == (True, 0, ())
    assert has(found, "No job", "heavy")
    assert found.context == "shapes; resnet18; 600 steps; seed 0, 1, 2"


def test_runs_that_the_table_lacks_are_named(sweep: Path, job: Job) -> None:
    job(1, 0.6)
    job(1, None, seed=1)
    job(3, 0.9)
    job(4, None)
    (sweep / "4").mkdir()
    found = report(sweep)
    assert (len(line(found, "light").finished), len(line(found, "light").runs)) == (1, 2)
    assert has(found, "Not finished: 1 ", "light", "seed 1", "no metrics.json")
    assert has(found, "no row", " 2 ", "loss.weight=3", "mAP (%) 90.0", "training (h) 0.500")
    assert has(found, "no row", " 3 ", "loss.weight=4", "not finished")
    assert has(found, "no row", " 4 ", "no config.yaml", "not finished")


def test_a_sweep_without_finished_jobs_has_an_empty_table(sweep: Path, job: Job) -> None:
    job(1, None)
    assert report(sweep).figures["n"].tolist() == [0] * 6


def test_a_finished_job_without_the_measure_is_named(
    sweep: Path, job: Job, definition: Any
) -> None:
    definition["columns"]["mAP"]["tag"] = "test/voc07_map"
    job(1, 0.6, definition=definition, metrics={"test/voc07_map": None})
    found = report(sweep)
    assert figure(found, "mAP", "light")["n"] == 0
    assert has(found, "0 is finished", "test/voc07_map")


def test_repetitions_of_one_seed_other_weights_and_notes_are_warnings(
    sweep: Path, job: Job
) -> None:
    for seed in (0, 1, 1):
        notes = ["all of them", f"only {seed}"] + ["two of them"] * (seed == 1)
        weights = "imagenet" if seed == 0 else "random"
        job(1, 0.6, seed=seed, results={"notes": notes, "weights": weights})
    found = report(sweep)
    assert has(found, "1, 2 are 2 runs", "seed 1")
    assert has(found, "imagenet (0)", "random (1, 2)")
    assert "all of them" in found.warnings
    assert has(found, "two of them (2 of 3 runs)")
    assert has(found, "only 1 (2 of 3 runs)")
    assert has(found, "1 notes of single runs")


def test_a_key_that_is_swept_beside_the_table_makes_a_table_for_each_value(
    sweep: Path, job: Job
) -> None:
    for size in (300, 600):
        for weight, value in ((1, 0.5 + size / 10000), (10, 0.55)):
            job(weight, value, images={"shorter_side": size})
    found = report(sweep)
    assert found.keys == ("images.shorter_side", "row")
    assert figure(found, "mAP", "300", "light")["ours"] == pytest.approx(53.0)
    assert figure(found, "mAP", "600", "light")["ours"] == pytest.approx(56.0)
    assert [each.section for each in found.lines] == [0, 0, 0, 1, 1, 1]


def test_a_null_key_that_only_newer_configs_have_is_no_difference(sweep: Path, job: Job) -> None:
    job(1, 0.6)
    job(1, 0.8, seed=1, images={"test_scales": None})
    assert len(line(report(sweep), "light").finished) == 2
    job(1, 0.8, seed=2, images={"test_scales": [300, 600]})
    assert report(sweep).keys == ("images.test_scales", "row")


def test_figures_on_other_data_are_in_another_table(sweep: Path, job: Job) -> None:
    job(1, 0.6, data={"root": "/x/bccd"})
    job(10, 0.6, data={"name": "VOC2007", "root": "/x/bccd"})
    found = report(sweep)
    assert found.keys == ("data.name", "row")
    assert found.our_data == "bccd / VOC2007"


def test_another_metric_replaces_the_tables_own(sweep: Path, job: Job) -> None:
    job(1, 0.4)
    found = report(sweep, tags=("test/map", "test/map_50"))
    assert list(found.columns) == ["test/map", "mAP"]
    assert figure(found, "test/map", "light")["ours"] == pytest.approx(20.0)
    # The paper's figures are of the other measure.
    assert math.isnan(figure(found, "test/map", "light")["paper"])
    assert figure(found, "mAP", "light")["paper"] == 60.0
    with pytest.raises(ReportError, match="'test/map_05', did you mean 'test/map_50'"):
        report(sweep, tags=("test/map_05",))


def test_a_run_without_the_definition_is_compared_with_the_rows_of_the_others(
    sweep: Path, job: Job
) -> None:
    job(1, 0.6, definition=None)
    job(10, 0.7)
    job(3, 0.8, definition=None)
    found = report(sweep)
    assert [len(each.finished) for each in found.lines] == [1, 1, 0]
    assert has(found, "no row", " 2 (")


def test_runs_of_two_tables_are_an_error(sweep: Path, job: Job, definition: Any) -> None:
    job(1, 0.4)
    job(1, 0.4, definition={**definition, "title": "Masses"})
    with pytest.raises(ReportError, match="'Weights', 'Masses'"):
        report(sweep)


def test_the_context_of_runs_that_only_test_has_no_length(sweep: Path, job: Job) -> None:
    job(1, 0.6, results={"steps": 0}, task="test")
    assert report(sweep).context == "shapes; resnet18; tested only; seed 0"


def test_runs_without_a_definition_have_a_line_for_each_difference(sweep: Path, job: Job) -> None:
    for weight, seed, value in ((1, 0, 0.4), (1, 1, 0.6), (10, 0, 0.7), (10, 1, None)):
        job(weight, value, seed=seed, definition=None, scales=[8, weight])
    (sweep / "4").mkdir()
    found = report(sweep)
    assert (found.plan, found.keys) == (None, ("loss.weight",))
    assert list(found.columns) == ["test/map", "test/map_50", "seconds"]
    assert [column.unit for column in found.columns.values()] == ["%", "%", "s"]
    assert figure(found, "test/map_50", "1")["ours"] == pytest.approx(50.0)
    assert (len(line(found, "10").finished), len(line(found, "10").runs)) == (1, 2)
    assert has(found, "differ along", "scales")
    assert has(found, "no row", " 4 ", "no config.yaml")


def test_a_group_is_named_by_its_name(sweep: Path, job: Job) -> None:
    job(1, 0.4, definition=None, optimizer={"lr": 0.1, "name": "sgd"})
    job(1, 0.5, definition=None, optimizer={"lr": 0.2, "name": "adam", "betas": [0.9, 0.99]})
    found = report(sweep)
    assert found.keys == ("optimizer.name",)
    assert has(found, "differ along", "optimizer.lr, optimizer.betas")


def test_classes_of_one_name_are_two_lines(sweep: Path, job: Job) -> None:
    job(1, 0.4, definition=None, optimizer={"_target_": "torch.optim.SGD"})
    job(1, 0.6, definition=None, optimizer={"_target_": "mine.SGD"})
    found = report(sweep)
    assert [each.cells for each in found.lines] == [("SGD",), ("SGD",)]
    assert found.figures.xs("test/map_50", level="title")["ours"].tolist() == [40.0, 60.0]


@pytest.mark.parametrize(
    ("seeds", "cells"), [((0,), ["0"]), ((0, 0), ["0", "1"]), ((0, 1), ["all"])]
)
def test_runs_that_differ_in_nothing_are_named_by_their_folders_and_seeds_are_averaged(
    job: Job, seeds: tuple[int, ...], cells: list[str]
) -> None:
    found = report(*[job(1, 0.4, definition=None, seed=seed) for seed in seeds])
    assert [each.cells for each in found.lines] == [(cell,) for cell in cells]
