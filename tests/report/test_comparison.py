"""From the folders of a sweep to the lines of its table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcnn.report import Line, Report, ReportError, compare, find_runs

Job = Callable[..., Path]


def report(*folders: Path, tags: tuple[str, ...] = ()) -> Report:
    return compare(find_runs(folders), tags)


def line(found: Report, *cells: str) -> Line:
    (one,) = (each for each in found.lines if each.cells == cells)
    return one


def test_seeds_of_a_row_are_put_together(sweep: Path, job: Job) -> None:
    for seed, value in enumerate((0.60, 0.62, 0.64)):
        job(1, value, seed=seed)
    job(10, 0.7)
    found = report(sweep)
    assert [each.cells for each in found.lines] == [("light",), ("medium",), ("heavy",)]
    light = line(found, "light")
    assert (light.paper, light.finished) == ((60.0, None), 3)
    assert light.ours[0].mean == pytest.approx(62.0)
    assert light.ours[0].spread == pytest.approx(2.0)
    assert light.ours[1].mean == pytest.approx(0.5)  # hours
    assert line(found, "heavy").ours[0].mean is None
    assert "No job of these rows was started: heavy." in found.remarks
    assert found.ours == "shapes; resnet18; 600 steps; seed 0, 1, 2"


def test_an_unfinished_job_is_named_with_its_row(sweep: Path, job: Job) -> None:
    job(1, 0.6)
    job(1, None, seed=1)
    found = report(sweep)
    light = line(found, "light")
    assert (light.finished, len(light.runs)) == (1, 2)
    assert found.remarks[1] == (
        "Not finished: 1 (light, seed 1): no metrics.json; its folder holds config.yaml, train.log."
    )


def test_a_sweep_of_which_nothing_is_finished_has_an_empty_table(sweep: Path, job: Job) -> None:
    job(1, None)
    found = report(sweep)
    assert all(not each.ours[0].values for each in found.lines)
    assert [verdict.ours.holds for verdict in found.verdicts] == [None]


def test_a_job_that_belongs_to_no_row_is_named(sweep: Path, job: Job) -> None:
    job(1, 0.6)
    job(3, 0.9)
    job(4, None)
    (sweep / "3").mkdir()
    remarks = report(sweep).remarks
    stray = "1 (loss.weight=3), mAP (%) 90.0, training (h) 0.500."
    assert f"In no row of the table: {stray}" in remarks
    assert any("2 (loss.weight=4), not finished: no metrics.json" in text for text in remarks)
    assert any("3 (no config.yaml), not finished" in text for text in remarks)


def test_a_finished_job_without_the_measure_is_named(sweep: Path, job: Job, node: Any) -> None:
    node["columns"]["mAP"]["tag"] = "test/voc07_map"
    job(1, 0.6, node=node, metrics={"test/voc07_map": None})
    found = report(sweep)
    assert line(found, "light").ours[0].values == ()
    assert "0 is finished, but without a value of test/voc07_map." in found.remarks


def test_repetitions_with_one_seed_are_told(sweep: Path, job: Job) -> None:
    job(1, 0.6)
    job(1, 0.7)
    found = report(sweep)
    assert line(found, "light").finished == 2
    assert "0, 1 are 2 runs of the same config and seed 0." in found.remarks


def test_what_several_runs_remarked_is_handed_on_and_the_rest_counted(
    sweep: Path, job: Job
) -> None:
    for seed in range(3):
        notes = ["all of them", f"only {seed}"] + ["two of them"] * (seed < 2)
        job(1, 0.6, seed=seed, results={"notes": notes})
    remarks = report(sweep).remarks
    assert remarks[-3:] == (
        "all of them",
        "two of them (2 of 3 runs)",
        "3 notes of single runs stand in their metrics.json.",
    )


def test_runs_that_start_from_other_weights_are_told(sweep: Path, job: Job) -> None:
    job(1, 0.6, results={"weights": "imagenet"})
    job(1, 0.5, seed=1)
    told = "The backbones do not all start from the same weights: imagenet (0); random (1)."
    assert told in report(sweep).remarks


def test_what_is_swept_beside_the_table_gives_a_table_each(sweep: Path, job: Job) -> None:
    for size in (300, 600):
        for weight, value in ((1, 0.5 + size / 10000), (10, 0.55)):
            job(weight, value, images={"shorter_side": size})
    found = report(sweep)
    assert found.titles == ("images.shorter_side", "row")
    assert line(found, "300", "light").ours[0].mean == pytest.approx(53.0)
    assert line(found, "600", "light").ours[0].mean == pytest.approx(56.0)
    assert [each.ends_table for each in found.lines] == [False, False, True, False, False, False]
    settings = {verdict.setting: verdict.ours.holds for verdict in found.verdicts}
    assert settings == {"images.shorter_side=300": True, "images.shorter_side=600": False}


def test_a_key_that_only_newer_configs_have_is_no_difference_while_it_is_null(
    sweep: Path, job: Job
) -> None:
    job(1, 0.6)
    job(1, 0.8, seed=1, images={"test_scales": None})
    assert line(report(sweep), "light").finished == 2
    job(1, 0.8, seed=2, images={"test_scales": [300, 600]})
    assert report(sweep).titles == ("images.test_scales", "row")


def test_figures_on_other_data_are_never_put_together(sweep: Path, job: Job) -> None:
    job(1, 0.6, data={"root": "a"})
    job(10, 0.6, data={"root": "b"})
    assert report(sweep).titles == ("data.root", "row")


def test_the_pattern_is_judged_by_the_papers_figures_and_by_ours(sweep: Path, job: Job) -> None:
    job(1, 0.9)
    job(10, 0.8)
    (verdict,) = report(sweep).verdicts
    assert (verdict.paper.holds, verdict.paper.more, verdict.paper.less) == (True, 70.0, 60.0)
    assert (verdict.ours.holds, verdict.ours.more, verdict.ours.less) == (False, 80.0, 90.0)


def test_another_metric_takes_the_place_of_the_tables_first(sweep: Path, job: Job) -> None:
    job(1, 0.4)
    job(10, 0.6)
    found = report(sweep, tags=("test/map",))
    assert [column.tag for column in found.columns] == ["test/map"]
    assert line(found, "light").ours[0].mean == pytest.approx(20.0)
    assert line(found, "light").paper == (None,)  # the paper's figures are of another measure
    (verdict,) = found.verdicts
    assert (verdict.paper.more, verdict.ours.more) == (70.0, pytest.approx(30.0))


def test_a_claim_on_a_column_that_is_not_shown_is_not_judged(
    sweep: Path, job: Job, node: Any
) -> None:
    node["claims"][0] |= {"column": "training"}
    job(1, 0.4, node=node)
    found = report(sweep, tags=("test/map",))
    assert not found.verdicts
    assert "Not judged, for want of seconds: medium is best." in found.remarks


def test_a_metric_that_nobody_measured_is_an_error_that_names_the_nearest(
    sweep: Path, job: Job
) -> None:
    job(1, 0.4)
    with pytest.raises(ReportError, match="'test/map_05', did you mean 'test/map_50'"):
        report(sweep, tags=("test/map_05",))


def test_a_run_that_was_started_without_the_table_is_taken_into_that_of_the_others(
    sweep: Path, job: Job
) -> None:
    job(1, 0.6, node=None)
    job(10, 0.7)
    job(3, 0.8, node=None)
    found = report(sweep)
    assert (line(found, "light").finished, line(found, "medium").finished) == (1, 1)
    assert any(remark.startswith("In no row of the table: 2 (") for remark in found.remarks)


def test_of_runs_that_only_test_no_length_is_told(sweep: Path, job: Job) -> None:
    for weight in (1, 10):
        job(weight, 0.6, results={"steps": 0}, task="test")
    assert report(sweep).ours == "shapes; resnet18; tested only; seed 0"


def test_two_tables_at_once_are_an_error(sweep: Path, job: Job, node: Any) -> None:
    job(1, 0.4)
    job(1, 0.4, node={**node, "title": "Masses"})
    with pytest.raises(ReportError, match="2 different tables: 'Weights', 'Masses'"):
        report(sweep)


def test_a_plan_that_is_not_sound_is_an_error_that_names_the_file(
    sweep: Path, job: Job, node: Any
) -> None:
    del node["rows"]
    job(1, 0.4, node=node)
    with pytest.raises(ReportError, match=r"0.config.yaml: sweep.rows is missing"):
        report(sweep)


def test_a_sweep_of_the_users_own_has_a_row_for_each_difference(sweep: Path, job: Job) -> None:
    for weight, seed, value in ((1, 0, 0.4), (1, 1, 0.6), (10, 0, 0.7), (10, 1, None)):
        job(weight, value, seed=seed, node=None)
    found = report(sweep)
    assert (found.title, found.titles) == ("", ("loss.weight",))
    assert [column.tag for column in found.columns] == ["test/map", "test/map_50", "seconds"]
    assert line(found, "1").ours[1].mean == pytest.approx(50.0)
    assert (line(found, "10").finished, len(line(found, "10").runs)) == (1, 2)
    assert not found.verdicts


def test_a_choice_that_changes_many_keys_is_named_by_the_one_that_says_it_best(
    sweep: Path, job: Job
) -> None:
    job(1, 0.4, node=None, optimizer={"lr": 0.1, "name": "sgd"})
    job(1, 0.5, node=None, optimizer={"lr": 0.2, "name": "adam", "betas": [0.9, 0.99]})
    found = report(sweep)
    assert found.titles == ("optimizer.name",)
    along = "These keys differ along with those named: optimizer.lr, optimizer.betas."
    assert along in found.remarks


def test_classes_of_one_name_are_still_two(sweep: Path, job: Job) -> None:
    job(1, 0.4, node=None, optimizer={"_target_": "torch.optim.SGD"})
    job(1, 0.6, node=None, optimizer={"_target_": "mine.SGD"})
    found = report(sweep)
    assert [each.cells for each in found.lines] == [("SGD",), ("SGD",)]
    assert [each.finished for each in found.lines] == [1, 1]


def test_a_job_without_a_config_is_named_and_makes_no_difference(sweep: Path, job: Job) -> None:
    job(1, 0.4, node=None)
    job(10, 0.4, node=None)
    (sweep / "2").mkdir()
    found = report(sweep)
    assert found.titles == ("loss.weight",)
    stray = "2 (no config.yaml), not finished: no metrics.json; its folder holds nothing."
    assert f"In no row of the table: {stray}" in found.remarks


def test_single_runs_that_differ_in_nothing_are_named_by_their_folders(
    sweep: Path, job: Job
) -> None:
    folders = job(1, 0.4, node=None), job(1, 0.5, node=None)
    found = report(*folders)
    assert found.titles == ("run",)
    assert [each.cells for each in found.lines] == [("0",), ("1",)]


def test_one_run_alone_is_a_table_of_one_line(sweep: Path, job: Job) -> None:
    (only,) = report(job(1, 0.4, node=None)).lines
    assert only.cells == ("0",)
    assert only.finished == 1
