"""The runs of folders, and the definition of a table that they carry."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcnn.report import ReportError, find_runs, read_plan
from rcnn.report.runs import Column, Row, Unit
from rcnn.settings import SettingsError

Job = Callable[..., Path]


def test_jobs_are_found_in_the_order_of_their_numbers(sweep: Path, job: Job) -> None:
    for weight in range(11):
        job(weight, 0.5)
    assert [run.name for run in find_runs([sweep])] == [str(n) for n in range(11)]


def test_an_unfinished_job_says_what_is_in_its_folder(sweep: Path, job: Job) -> None:
    (job(1, None) / "checkpoints").mkdir()
    (run,) = find_runs([sweep])
    assert (run.results, run.value("test/map_50"), run.tags) == (None, None, ())
    assert run.fault.endswith("holds checkpoints/, config.yaml, train.log")


def test_a_job_that_failed_before_it_wrote_anything_is_found(sweep: Path, job: Job) -> None:
    job(1, 0.5)
    (sweep / "1").mkdir()
    (sweep / "named").mkdir()
    (sweep / "named" / "train.log").touch()
    (sweep / "figures").mkdir()  # somebody's own, no job
    found = {run.name: run.fault for run in find_runs([sweep])}
    assert found == {
        "0": "",
        "1": "no metrics.json; its folder holds nothing",
        "named": "no metrics.json; its folder holds train.log",
    }


def test_a_broken_file_is_named_and_not_skipped(sweep: Path, job: Job) -> None:
    (job(1, 0.5) / "metrics.json").write_text('{"metrics": {')
    (run,) = find_runs([sweep])
    assert run.results is None
    assert run.fault.startswith("cannot be read: ")


def test_runs_have_the_shortest_names_that_distinguish_them(
    sweep: Path, job: Job, tmp_path: Path
) -> None:
    first, second = job(1, 0.5), job(10, 0.6)
    assert [run.name for run in find_runs([first, second, first])] == ["0", "1"]
    other = tmp_path / "others"
    other.mkdir()
    second.rename(other / "1")
    assert [run.name for run in find_runs([sweep, other])] == ["weights/0", "others/1"]


def test_what_a_run_holds_is_not_searched(sweep: Path, job: Job) -> None:
    inner = job(1, 0.5) / "phases" / "1_rpn"
    inner.mkdir(parents=True)
    (inner / "config.yaml").write_text("{}")
    assert len(find_runs([sweep])) == 1


def test_a_folder_without_runs_is_an_error_that_says_what_one_holds(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"multirun\.yaml .* config\.yaml .* metrics\.json"):
        find_runs([tmp_path])
    with pytest.raises(ReportError, match=r"none: there is no such folder"):
        find_runs([tmp_path / "none"])
    (tmp_path / "config.yaml").write_text("- a list\n")
    with pytest.raises(ReportError, match=r"config\.yaml .* is not one of a run"):
        find_runs([tmp_path])


def test_configs_are_compared_without_nulls_and_their_own_folder(sweep: Path, job: Job) -> None:
    folder = job(1.0, 0.5, scales=[8, 16.0], flag=True, note=None, lr=1e-05)
    (run,) = find_runs([folder])
    flat = run.flat_config()
    assert flat["logger.save_dir"] == "/logs"
    assert (flat["loss.weight"], flat["scales"], flat["flag"]) == ("1", "[8,16]", "true")
    assert flat["lr"] == "1e-05"
    assert not {"note", "run_dir", "sweep.title"} & set(flat)


@pytest.mark.parametrize(
    ("config", "matches"),
    [
        ({"loss": {"weight": 1.0}, "scales": [8.0, 16.0]}, True),
        ({"loss": {"weight": 1, "other": 2}, "scales": [8, 16], "more": None}, True),
        ({"loss": {"weight": 10}, "scales": [8, 16]}, False),
        ({"loss": {"weight": 1}, "scales": [16, 8]}, False),
        ({"loss": {"weight": 1}}, False),
        ({"loss": {"weight": True}, "scales": [8, 16]}, False),
        ({"loss": 1, "scales": [8, 16]}, False),
        ({"loss": {"weight": 1}, "scales": [8, 16], "ranks": [4]}, False),
        ({}, False),
    ],
)
def test_a_job_belongs_to_the_row_with_its_values(config: dict[str, Any], matches: bool) -> None:
    row = Row(label="light", where={"loss.weight": 1, "scales": [8, 16], "ranks": None})
    assert row.matches(config) is matches


def test_of_several_rows_the_first_that_matches_counts(definition: dict[str, Any]) -> None:
    definition["rows"][1]["where"] = {"loss.weight": 1}
    plan = read_plan(definition)
    row = plan.row_of({"loss": {"weight": 1}})
    assert row is not None
    assert (row.label, row.paper) == ("light", {"mAP": 60.0})
    assert plan.row_of({"loss": {"weight": 3}}) is None
    assert [column.unit for column in plan.columns.values()] == ["%", "h"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda n: n.pop("source"), ["sweep.source"]),
        (lambda n: n.pop("data"), ["sweep.data"]),
        (lambda n: n.update(colums={}), ["sweep.colums", "'columns'"]),
        (lambda n: n.update(columns={}), ["sweep.columns={}"]),
        (lambda n: n.update(rows="all"), ["sweep.rows='all'"]),
        (lambda n: n.update(title=3), ["sweep.title=3"]),
        (lambda n: n["columns"]["mAP"].update(unit="days"), ["sweep.columns.mAP.unit='days'"]),
        (lambda n: n["columns"]["mAP"].pop("tag"), ["sweep.columns.mAP.tag"]),
        (lambda n: n["columns"]["mAP"].update(untt="%"), ["sweep.columns.mAP.untt", "'unit'"]),
        (lambda n: n["rows"][1].update(label="light"), ["sweep.rows=", "light"]),
        (lambda n: n["rows"][0].update(lable="light"), ["sweep.rows[0].lable", "'label'"]),
        (lambda n: n["rows"][0].update(where={}), ["sweep.rows[0].where={}"]),
        (lambda n: n["rows"][0].update(paper={"mAp": 1}), ["sweep.rows[0].paper", "'mAP'"]),
        (lambda n: n["rows"][0].update(paper={"mAP": "60"}), ["sweep.rows[0].paper.mAP='60'"]),
    ],
)
def test_an_unsound_definition_is_an_error_with_key_and_value(
    spoil: Callable[[dict[str, Any]], object], words: list[str], definition: dict[str, Any]
) -> None:
    spoil(definition)
    with pytest.raises(SettingsError) as caught:
        read_plan(definition)
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_unsound_definition_in_a_run_is_an_error_that_names_the_file(
    job: Job, definition: dict[str, Any]
) -> None:
    del definition["rows"]
    (run,) = find_runs([job(1, 0.4, definition=definition)])
    with pytest.raises(ReportError, match=r"0.config\.yaml: sweep\.rows"):
        run.plan()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (69.94, "%", "69.9"),
        (0.04, "%", "0.0"),
        (math.nan, "%", "-"),
        (3733.2, "s", "3,733"),
        (12.34, "h", "12.3"),
        (9.5, "h", "9.50"),
        (0.198, "s", "0.198"),
        (0.0, "", "0.000"),
    ],
)
def test_a_figure_is_written_with_the_digits_that_it_is_worth(
    value: float, unit: Unit, text: str
) -> None:
    assert Column("seconds", unit).text(value) == text
    assert Column("seconds", "%").text(69.94, 1.06) == "69.9±1.1"
