"""The picture of a report."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rcnn.report import find_runs
from rcnn.report.plots import plot_report
from rcnn.report.tables import compare

pytest.importorskip("matplotlib")

Job = Callable[..., Path]
PAPER, OURS = (0x8A, 0x6D, 0x00), (0x57, 0x64, 0xF9)


def marked(sweep: Path, *tags: str) -> tuple[bool, bool]:
    """Return whether a picture has marks of the paper's figures and of ours."""
    with Image.open(io.BytesIO(plot_report(compare(find_runs([sweep]), tags)))) as image:
        counts = image.convert("RGB").getcolors(maxcolors=1 << 24) or []
    by_colour = {value: count for count, value in counts}
    return by_colour.get(PAPER, 0) > 50, by_colour.get(OURS, 0) > 50


def test_the_papers_figures_and_ours_are_marked(sweep: Path, job: Job) -> None:
    job(10, 0.50)
    job(10, 0.52, seed=1)
    job(1, None)
    assert marked(sweep) == (True, True)


def test_a_sweep_without_figures_can_be_drawn(sweep: Path, job: Job) -> None:
    (sweep / "0").mkdir()
    assert marked(sweep) == (False, False)
    job(1, None)
    assert marked(sweep) == (True, False)


@pytest.mark.parametrize("seconds", [(0.002, 40.0, 0.0), (0.002, 0.004, 40.0)])
def test_times_of_several_powers_of_ten_can_be_drawn(
    sweep: Path, job: Job, seconds: tuple[float, ...]
) -> None:
    for weight, value in zip((1, 10, 100), seconds, strict=True):
        job(weight, 0.5, definition=None, metrics={"test/seconds_per_image": value})
    assert marked(sweep, "test/seconds_per_image") == (False, True)


def test_names_are_text_and_no_formula(sweep: Path, job: Job, definition: Any) -> None:
    definition["rows"][0]["label"] = r"$\frac{1}$ [m8]"
    definition["title"] = "a $b^ c$"
    job(1, 0.5, definition=definition)
    assert marked(sweep) == (True, True)
