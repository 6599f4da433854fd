"""The report as text."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rcnn.report import compare, find_runs
from rcnn.report.text import as_text

Job = Callable[..., Path]


def text(sweep: Path) -> str:
    return as_text(compare(find_runs([sweep])))


def row(told: str, label: str) -> list[str]:
    """Return the cells of the first line that begins so, less the label."""
    line = next(line for line in told.splitlines() if line.startswith(f"{label} "))
    return re.split(r"  +", line.strip())[1:]


def test_the_papers_figure_stands_beside_ours_and_the_difference(sweep: Path, job: Job) -> None:
    for seed, value in enumerate((0.70, 0.72, 0.74)):
        job(10, value, seed=seed)
    job(1, 0.6)
    told = text(sweep)
    assert row(told, "medium") == ["70.0", "72.0 ± 2.0", "+2.0", "9.50", "0.500 ± 0.000", "3"]
    assert row(told, "light") == ["60.0", "60.0", "+0.0", "-", "0.500", "1"]
    assert row(told, "heavy") == ["-", "-", "-", "-", "-", "0"]
    assert "Paper: A paper, table 1" in told
    assert "sample standard deviation" in told


def test_the_pattern_is_told_with_both_pairs_of_figures(sweep: Path, job: Job) -> None:
    job(10, 0.50)
    job(1, 0.55)
    (line,) = (line for line in text(sweep).splitlines() if line.startswith("medium is best"))
    assert " ".join(line.split()) == "medium is best yes 70.0 ≥ 60.0 no 50.0 < 55.0"


def test_a_pattern_of_so_many_times_shows_the_factor(sweep: Path, job: Job, node: Any) -> None:
    node["claims"][0] |= {"says": "twice as much", "times": 2.0}
    job(10, 0.50, node=node)
    job(1, 0.30, node=node)
    (line,) = (line for line in text(sweep).splitlines() if line.startswith("twice as much"))
    assert " ".join(line.split()) == "twice as much no 70.0 < 2 x 60.0 no 50.0 < 2 x 30.0"


def test_a_pattern_that_cannot_be_judged_names_the_row(sweep: Path, job: Job) -> None:
    job(10, 0.50)
    assert "open no figure: light" in text(sweep)
    assert "One seed a row: nothing is known of the spread." in text(sweep)


def test_brackets_of_names_are_kept(sweep: Path, job: Job, node: Any) -> None:
    node["rows"][0]["label"] = "light [red]"
    node["claims"][0]["less"] = ["light [red]"]
    job(1, 0.5, node=node)
    job(1, 0.5, node=node, seed=1, scales=[8, 16])
    told = text(sweep)
    assert "light [red]" in told
    assert "[scales=[8,16]]" in told


def test_a_wide_table_keeps_to_100_columns(sweep: Path, job: Job) -> None:
    for number in range(3):
        name = f"a_setting_of_a_very_long_name_{number}"
        job(1, 0.5, node=None, **{name: "x" * 40 + str(number)})
    assert max(map(len, text(sweep).splitlines())) <= 100


def test_a_rows_name_stays_on_one_line_and_no_column_is_lost(
    sweep: Path, job: Job, node: Any
) -> None:
    titles = [f"measure {number}" for number in range(5)]
    node["columns"] = {title: {"tag": "test/map_50", "unit": "%"} for title in titles}
    node["rows"][1] |= {"label": "Faster, alternating", "paper": dict.fromkeys(titles, 70.0)}
    node["rows"][0]["paper"], node["claims"] = {}, []
    for seed, value in enumerate((0.70, 0.72)):
        job(10, value, node=node, seed=seed)
    told = text(sweep)
    assert max(map(len, told.splitlines())) <= 100
    assert row(told, "Faster, alternating")[-1] == "2"
