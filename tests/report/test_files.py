"""The files of a report."""

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rcnn.report import Report, compare, find_runs
from rcnn.report.files import write_report
from rcnn.report.picture import picture

Job = Callable[..., Path]


@pytest.fixture
def report(sweep: Path, job: Job) -> Report:
    job(10, 0.50)
    job(10, 0.52, seed=1)
    job(1, None)
    return compare(find_runs([sweep]))


def test_text_table_and_picture_are_written_and_nothing_else(
    report: Report, tmp_path: Path
) -> None:
    out = tmp_path / "a" / "b"
    written = write_report(report, out)
    assert [path.name for path in written] == ["report.txt", "report.csv", "report.png"]
    assert sorted(out.iterdir()) == sorted(written)
    assert "medium" in (out / "report.txt").read_text()


def test_a_report_in_the_sweeps_folder_is_no_job_of_the_next(report: Report, sweep: Path) -> None:
    write_report(report, sweep)
    write_report(report, sweep / "report")
    assert compare(find_runs([sweep])) == report


def test_without_matplotlib_the_rest_is_written(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    names = [path.name for path in write_report(report, tmp_path / "out")]
    assert names == ["report.txt", "report.csv"]


def ink(png: bytes, colour: tuple[int, int, int]) -> int:
    """Count the pixels of a colour."""
    with Image.open(io.BytesIO(png)) as image:
        counts = image.convert("RGB").getcolors(maxcolors=1 << 24) or []
    return {value: count for count, value in counts}.get(colour, 0)


def test_the_picture_shows_the_papers_marks_and_ours(report: Report) -> None:
    png = picture(report)
    paper, ours = (0x8A, 0x6D, 0x00), (0x57, 0x64, 0xF9)
    assert ink(png, paper) > 100
    assert ink(png, ours) > 100


def test_a_sweep_without_figures_can_be_drawn(sweep: Path, job: Job) -> None:
    job(1, None)
    assert ink(picture(compare(find_runs([sweep]))), (0x57, 0x64, 0xF9)) == 0


def test_a_sweep_of_which_no_job_has_begun_can_be_written(sweep: Path, tmp_path: Path) -> None:
    (sweep / "0").mkdir()
    assert len(write_report(compare(find_runs([sweep])), tmp_path / "out")) == 3


def test_times_of_several_powers_of_ten_can_be_drawn(sweep: Path, job: Job) -> None:
    for weight, seconds in ((1, 0.002), (10, 40.0), (100, 0.0)):
        job(weight, 0.5, node=None, metrics={"test/seconds_per_image": seconds})
    runs = find_runs([sweep])
    assert ink(picture(compare(runs, ["test/seconds_per_image"])), (0x57, 0x64, 0xF9)) > 100
