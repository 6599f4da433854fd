"""The table of average precisions."""

import math

import pytest

from rcnn.view.scores import COLUMNS, figure, recall_line, score_table

FIGURES = {"map": 0.25, "map_50": 0.5, "voc_ap": 0.75, "voc07_ap": math.nan}


@pytest.mark.parametrize("classes", [0, 1, 3])
def test_a_table_has_a_row_for_all_and_one_for_each_class(classes: int) -> None:
    per_class = {f"class {k}": FIGURES for k in range(classes)}
    table = score_table({"test/map": 0.125, "val/map": 0.9}, per_class, "test")
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == ["all", *per_class]
    assert len(columns) == 1 + len(COLUMNS)
    assert columns[1] == ["0.125", *["0.250"] * classes]
    assert columns[4] == ["-"] * (1 + classes)


def test_recall_of_the_split_stands_in_one_line() -> None:
    metrics = {"test/recall_100": 0.375, "val/recall_300": 0.9}
    assert recall_line(metrics, "test") == "proposal recall at 100, 300, 1000: 0.375, -, -"


def test_what_was_not_measured_is_a_dash() -> None:
    assert (figure(math.nan), figure(0.0)) == ("-", "0.000")
