"""The report for other programs."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

from rcnn.report import compare, find_runs
from rcnn.report.sheet import as_csv

Job = Callable[..., Path]


def rows(sweep: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(compare(find_runs([sweep]))))))


def test_each_row_and_measure_has_a_line(sweep: Path, job: Job) -> None:
    job(10, 0.5, seed=3)
    job(10, 0.75, seed=4)
    job(10, None, seed=5)
    found = rows(sweep)
    assert [(row["row"], row["measure"]) for row in found] == [
        (label, tag) for label in ("light", "medium", "heavy") for tag in ("test/map_50", "seconds")
    ]
    assert found[2] == {
        "row": "medium",
        "measure": "test/map_50",
        "unit": "%",
        "paper": "70.0",
        "ours": "62.5",
        "std": str(12.5 * 2**0.5),
        "n": "2",
        "values": "50.0 75.0",
        "seeds": "3 4",
        "runs": "0 1",
        "unfinished": "2",
    }


def test_what_is_not_known_is_empty(sweep: Path, job: Job) -> None:
    job(10, 0.5)
    heavy = rows(sweep)[4]
    assert heavy["n"] == "0"
    assert {heavy[key] for key in ("paper", "ours", "std", "values", "seeds", "runs")} == {""}


def test_the_differences_of_a_users_sweep_are_columns(sweep: Path, job: Job) -> None:
    job(1, 0.5, node=None, scales=[8, 16])
    job(10, 0.5, node=None, scales=[8, 16, 32])
    found = rows(sweep)
    assert {(row["loss.weight"], row["measure"]) for row in found} >= {("1", "test/map_50")}
