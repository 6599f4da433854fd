"""A report as text and as CSV."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rcnn.report import find_runs
from rcnn.report.tables import Report, compare
from rcnn.report.text import as_csv, as_text, write_report

Job = Callable[..., Path]


def report(folder: Path) -> Report:
    return compare(find_runs([folder]))


def row(text: str, label: str) -> list[str]:
    """Return the cells of the first line that begins with the label, less the label."""
    found = next(line for line in text.splitlines() if line.startswith(f"{label} "))
    return re.split(r"  +", found.strip())[1:]


def test_the_text_has_the_papers_figure_ours_and_the_difference(sweep: Path, job: Job) -> None:
    job(1, 0.6)
    assert "±" not in as_text(report(sweep))
    for seed, value in enumerate((0.70, 0.72, 0.74)):
        job(10, value, seed=seed)
    text = as_text(report(sweep))
    assert row(text, "medium") == ["70.0", "72.0±2.0", "+2.0", "9.50", "0.500±0.000", "3"]
    assert row(text, "light") == ["60.0", "60.0", "+0.0", "-", "0.500", "1"]
    assert row(text, "heavy") == ["-", "-", "-", "-", "-", "0"]
    assert "A paper, table 1" in text


def test_the_header_names_the_data_of_the_paper_and_ours(sweep: Path, job: Job) -> None:
    job(1, 0.6)
    header = as_text(report(sweep)).split("───")[0].split()
    assert header.count("2007") == 2
    assert header.count("shapes") == 2


def test_names_are_text_and_no_markup(sweep: Path, job: Job, definition: Any) -> None:
    definition["rows"][0]["label"] = "bolt[m8] [/red]"
    definition["title"] = "[bold]Weights[/]"
    job(1, 0.5, definition=definition)
    job(1, 0.5, definition=definition, seed=1, scales=[8, 16])
    text = as_text(report(sweep))
    assert all(name in text for name in ("bolt[m8] [/red]", "[bold]Weights[/]", "[8,16]"))


def test_a_wide_table_keeps_to_100_columns_and_a_rows_name_to_one_line(
    sweep: Path, job: Job, definition: Any
) -> None:
    titles = [f"measure {number}" for number in range(5)]
    definition["columns"] = {title: {"tag": "test/map_50", "unit": "%"} for title in titles}
    definition["rows"][1] |= {"label": "Faster, alternating", "paper": dict.fromkeys(titles, 70.0)}
    definition["rows"][0]["paper"] = {}
    for seed, value in enumerate((0.70, 0.72)):
        job(
            10,
            value,
            definition=definition,
            seed=seed,
            **{f"a_key_of_a_very_long_name_{seed}": "x" * 40},
        )
    text = as_text(report(sweep))
    assert max(map(len, text.splitlines())) <= 100
    assert "Faster, alternating" in text


def test_the_csv_has_a_line_for_each_row_and_measure(sweep: Path, job: Job) -> None:
    job(10, 0.5, seed=3)
    job(10, 0.75, seed=4)
    job(10, None, seed=5)
    found = list(csv.DictReader(as_csv(report(sweep)).splitlines()))
    assert [(row["row"], row["measure"]) for row in found] == [
        (label, tag) for label in ("light", "medium", "heavy") for tag in ("test/map_50", "seconds")
    ]
    assert found[2] == {
        "row": "medium",
        "measure": "test/map_50",
        "unit": "%",
        "paper": "70.0",
        "ours": "62.5",
        "difference": "-7.5",
        "std": str(12.5 * 2**0.5),
        "n": "2",
        "values": "50.0 75.0",
        "seeds": "3 4",
        "runs": "0 1",
        "unfinished": "2",
    }
    unknown = ("paper", "ours", "difference", "std", "values", "seeds", "runs", "unfinished")
    assert {found[4][key] for key in unknown} == {""}
    assert found[4]["n"] == "0"


def test_a_report_is_written_and_is_no_job_of_the_next(sweep: Path, job: Job) -> None:
    job(10, 0.5)
    first = report(sweep)
    for folder in (sweep, sweep / "a" / "b"):
        assert write_report(first, folder) == [folder / "report.txt", folder / "report.csv"]
    assert write_report(first, sweep, b"picture")[-1].read_bytes() == b"picture"
    again = report(sweep)
    assert (as_csv(again), again.warnings) == (as_csv(first), first.warnings)
