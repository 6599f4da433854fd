"""Which runs a folder holds, and what they have left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rcnn.report.runs import ReportError, find_runs

Job = Callable[..., Path]


def test_jobs_are_found_in_the_order_of_their_numbers(sweep: Path, job: Job) -> None:
    for weight in range(11):
        job(weight, 0.5)
    assert [run.name for run in find_runs([sweep])] == [str(n) for n in range(11)]


def test_an_unfinished_job_says_what_is_in_its_folder(sweep: Path, job: Job) -> None:
    (job(1, None) / "checkpoints").mkdir()
    (run,) = find_runs([sweep])
    assert run.results is None
    assert run.value("test/map_50") is None
    assert run.tags == ()
    wanted = "no metrics.json; its folder holds checkpoints/, config.yaml, train.log"
    assert run.fault == wanted


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


def test_a_broken_file_is_told_and_not_skipped(sweep: Path, job: Job) -> None:
    (job(1, 0.5) / "metrics.json").write_text('{"metrics": {')
    (run,) = find_runs([sweep])
    assert run.results is None
    assert run.fault.startswith("cannot be read: ")


def test_single_runs_are_named_by_their_folders_and_counted_once(sweep: Path, job: Job) -> None:
    first, second = job(1, 0.5), job(10, 0.6)
    assert [run.name for run in find_runs([first, second, first])] == ["0", "1"]


def test_the_runs_of_several_sweeps_are_told_apart(sweep: Path, job: Job, tmp_path: Path) -> None:
    job(1, 0.5)
    other = tmp_path / "others"
    other.mkdir()
    (sweep / "0").rename(other / "0")
    job(1, 0.6)
    assert [run.name for run in find_runs([sweep, other])] == ["weights/0", "others/0"]


def test_what_a_run_holds_is_not_looked_into(sweep: Path, job: Job) -> None:
    inner = job(1, 0.5) / "stages" / "1_rpn"
    inner.mkdir(parents=True)
    (inner / "config.yaml").write_text("{}")
    assert len(find_runs([sweep])) == 1


def test_a_folder_without_runs_is_an_error_that_says_what_one_holds(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"holds no runs. A sweep folder holds multirun.yaml"):
        find_runs([tmp_path])
    with pytest.raises(ReportError, match="there is no such folder"):
        find_runs([tmp_path / "none"])
    (tmp_path / "config.yaml").write_text("- a list\n")
    with pytest.raises(ReportError, match="is not one of a run"):
        find_runs([tmp_path])
