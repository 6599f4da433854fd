"""Means, spreads, and how they are written."""

from pathlib import Path

import pytest

from rcnn.report.figures import Figure, column_of, measure, spelled_figure, written
from rcnn.report.plan import Column, Unit
from rcnn.report.runs import Run


def run(value: float | None, seconds: float = 3600.0) -> Run:
    results = {"metrics": {"test/map": value}, "seconds": seconds}
    return Run(Path("x"), "x", {}, results, "")


def test_the_spread_is_the_sample_standard_deviation() -> None:
    figure = Figure((1.0, 2.0, 3.0))
    assert (figure.mean, figure.spread, figure.interval) == (2.0, 1.0, (1.0, 3.0))


def test_one_value_has_no_spread_and_none_has_no_mean() -> None:
    assert (Figure((4.0,)).mean, Figure((4.0,)).spread) == (4.0, None)
    assert Figure((4.0,)).interval == (4.0, 4.0)
    assert (Figure(()).mean, Figure(()).interval) == (None, ())


def test_figures_are_in_the_columns_unit_and_null_is_no_figure() -> None:
    runs = [run(0.25), run(None), run(0.5), Run(Path("x"), "x", {}, None, "no metrics.json")]
    assert measure(runs, Column("mAP", "test/map")).values == (25.0, 50.0)
    assert measure(runs, Column("training", "seconds", "h")).values == (1.0, 1.0, 1.0)
    assert measure(runs, Column("other", "test/other")).values == ()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (69.94, "%", "69.9"),
        (0.04, "%", "0.0"),
        (None, "%", "-"),
        (3733.2, "s", "3,733"),
        (12.34, "h", "12.3"),
        (9.5, "h", "9.50"),
        (0.198, "s", "0.198"),
        (0.0, "", "0.000"),
    ],
)
def test_a_figure_is_written_with_as_many_digits_as_it_is_worth(
    value: float | None, unit: Unit, text: str
) -> None:
    assert written(value, unit) == text


def test_a_spread_is_written_behind_the_mean() -> None:
    assert spelled_figure(Figure((60.0, 61.0)), "%") == "60.5 ± 0.7"
    assert spelled_figure(Figure((41.0, 42.0)), "s") == "41.5 ± 0.7"
    assert spelled_figure(Figure((60.0,)), "%") == "60.0"
    assert spelled_figure(Figure(()), "%") == "-"


def test_a_tag_that_no_plan_describes_gets_its_unit_from_its_name() -> None:
    assert column_of("test/map_50").unit == "%"
    assert column_of("test/recall_300").unit == "%"
    assert column_of("seconds").unit == "s"
    assert column_of("test/loss").unit == ""
