"""The table of average precisions."""

import math

import pytest
from rich.console import Console

from rcnn.view.scores import COLUMNS, figure, recall_line, score_table

FIGURES = {"map": 0.25, "map_50": 0.5, "voc_ap": 0.75, "voc07_ap": math.nan}


@pytest.mark.parametrize("classes", [0, 1, 3])
def test_a_table_has_a_row_for_all_and_one_for_each_class(classes: int) -> None:
    names = ("cat", "кошка", "a class with a long name")
    per_class = dict.fromkeys(names[:classes], FIGURES)
    table = score_table({"test/map": 0.125, "val/map": 0.9}, per_class, "test")
    columns = [list(column.cells) for column in table.columns]
    assert [str(cell) for cell in columns[0]] == ["all", *per_class]
    assert len(columns) == 1 + len(COLUMNS)
    assert columns[1] == ["0.125", *["0.250"] * classes]
    assert columns[4] == ["-"] * (1 + classes)


def test_recall_of_the_split_is_one_line() -> None:
    metrics = {"test/recall_100": 0.375, "val/recall_300": 0.9}
    assert recall_line(metrics, "test") == "proposal recall at 100, 300, 1000: 0.375, -, -"


def test_what_was_not_measured_is_a_dash() -> None:
    assert (figure(math.nan), figure(0.0)) == ("-", "0.000")


@pytest.mark.parametrize("name", ["bolt[m8]", "[/red]", "[bold]x", ":smile:", "a\\[b]"])
def test_a_class_name_is_text_and_no_markup(name: str) -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(score_table({}, {name: FIGURES}, "test"))
    assert name in capture.get()
